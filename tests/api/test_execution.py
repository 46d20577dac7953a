"""`load(execution="auto")`: both kinds of checkpoint on integer kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sinkquant
from sinkquant.runtime.linear import QuantizedLinear

COMMON = ["calibration.length=64", "calibration.sequences=4"]
IDS = torch.tensor([[5, 17, 100, 23, 42, 7]])


@pytest.mark.parametrize("recipe", ["w8a8-static", "w8a8", "w4a16"])
def test_auto_agrees_with_the_reference(stories_path: Path, tmp_path: Path, recipe: str) -> None:
    sinkquant.quantize(stories_path, recipe=recipe, output=tmp_path / "out", overrides=COMMON)
    reference = sinkquant.load(tmp_path / "out", dtype=torch.float32)
    model = sinkquant.load(tmp_path / "out", dtype=torch.float32, execution="auto")
    assert any(isinstance(module, QuantizedLinear) for module in model.modules())
    expected = reference(IDS).logits
    assert (model(IDS).logits - expected).norm() <= 2e-2 * expected.norm()

    model.save_pretrained(tmp_path / "again")  # what is stored does not depend on the kernels
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name].to(tensor.dtype)) for name, tensor in before.items())
    again = type(model).from_pretrained(tmp_path / "again", dtype=torch.float32)
    assert torch.equal(again(IDS).logits, expected)


def test_an_unknown_execution_is_named(tmp_path: Path) -> None:
    with pytest.raises(sinkquant.UsageError, match="reference"):
        sinkquant.load(tmp_path, execution="refrence")  # type: ignore[arg-type]
