"""Log-probabilities of our own runtime."""

from __future__ import annotations

from pathlib import Path

import torch

import sinkquant


def log_probabilities(folder: Path, windows: list[list[int]]) -> list[list[float]]:
    """Of tokens 1 … T−1 of every window, each window on its own, in float32."""
    model = sinkquant.load(folder, dtype=torch.float32)
    found = []
    for window in windows:
        ids = torch.tensor([window])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        scores = torch.log_softmax(logits.double(), dim=-1).gather(1, ids[0, 1:, None])[:, 0]
        found.append(scores.tolist())
    return found
