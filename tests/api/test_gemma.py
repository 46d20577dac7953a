"""Gemma-3-270M (sandwich norms, offset norms, q/k norms, sliding windows) goes through the recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import sinkquant
from sinkquant.formats.manifest import read_manifest

TEXT = "The river rises in the hills and runs north for forty miles before it meets the sea near the old harbour. "


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["w8a8-static", "w4a4kv4"])
def test_recipe(gemma3_path: Path, tmp_path: Path, recipe: str) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 40)
    out = tmp_path / recipe
    result = sinkquant.quantize(
        gemma3_path, recipe=recipe, output=out, calibration=str(tmp_path / "text.txt"),
        overrides=[
            "calibration.sequences=2", "calibration.length=128",
            "sinks.prefix=[2]", "sinks.exclude=false", "effort=fast",
        ],
    )  # fmt: skip
    assert not result.plan.rotations.stream
    assert result.figures["transform_error"] < 1e-4
    assert result.figures["result_perplexity"] < 1.5 * result.figures["baseline_perplexity"]
    assert read_manifest(out).bos is True
    model = sinkquant.load(out, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(out)("The capital of France is", add_special_tokens=False, return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=3, do_sample=False)
    assert answer.shape[1] == ids["input_ids"].shape[1] + 3


@pytest.mark.slow
def test_portable_int8(gemma3_path: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 40)
    result = sinkquant.quantize(
        gemma3_path, recipe="w8a8", output=tmp_path / "out", calibration=str(tmp_path / "text.txt"),
        overrides=["calibration.sequences=2", "calibration.length=128", "sinks.exclude=false"],
    )  # fmt: skip
    assert result.figures["result_perplexity"] < 1.1 * result.figures["baseline_perplexity"]
