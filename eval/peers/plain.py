"""Models as plain transformers loads them: float32, and quantized as their config.json says."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load(folder: Path) -> Any:
    """The causal language model of a folder, its unquantized tensors in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():  # compressed-tensors unpacks at the first call of the whole model, not of its parts
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64), use_cache=False)
    return model


def run(model: Any, windows: Any) -> None:
    """Show a model all windows (N, T), one by one."""
    import torch

    with torch.no_grad():
        for ids in windows:
            model(input_ids=ids[None], use_cache=False)
