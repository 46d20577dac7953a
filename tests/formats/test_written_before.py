"""Checkpoints that earlier versions wrote, from tiny random Llamas with a planted sink, load in every later version.

A folder of `tests/fixtures` holds one of each kind and the logits that it gave when it was written: `v0.1.0` (w8a8 and
w4a8kv4, manifest of format 1) and `manifest-2` (w4a16 with a budget and w4a4kv4, distilled, manifest of format 2).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sinkquant

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
WRITTEN = [folder for version in sorted(FIXTURES.iterdir()) for folder in sorted(version.iterdir()) if folder.is_dir()]


def expected(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder.with_name(f"{folder.name}.logits.safetensors"))


@pytest.mark.parametrize("folder", WRITTEN, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
class TestWrittenBefore:
    def test_same_logits(self, folder: Path) -> None:
        model, stored = sinkquant.load(folder, dtype=torch.float32), expected(folder)
        with torch.no_grad():
            logits = model(input_ids=stored["ids"][None]).logits[0]
        if torch.equal(logits, stored["logits"]):
            return
        # Another processor adds in another order, which moves single inputs across a rounding boundary.
        error = (logits - stored["logits"]).abs() / stored["logits"].abs().max()
        assert error.median() < 1e-5
        assert error.max() < 2e-2

    def test_verifies(self, folder: Path) -> None:
        found = sinkquant.verify(folder)
        assert found.difference.acceptable
        assert found.sealed == (folder.parent.name != "v0.1.0")

    def test_is_inspected(self, folder: Path) -> None:
        found = sinkquant.inspect(folder)
        assert found.target == folder.name
        assert found.prefix == ((256,) if folder.name == "sink-aware" else ())
