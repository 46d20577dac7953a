"""Tuning on a trained model: the loss falls, the codes stay, and what is written is what was tuned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sinkquant.flow.result import Result
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.quantization.grid import Grid, fake_quantize, round_through
from sinkquant.tasks.causal_lm import CAUSAL_LM

COMMON = ["calibration.sequences=16", "calibration.length=128", "tuning.length=128", "export.dtype=float32"]


@pytest.fixture
def make(quantize_tiny: Callable[..., Result]) -> Callable[..., Result]:
    return lambda folder, recipe, *overrides: quantize_tiny(folder, recipe, *COMMON, *overrides)


@pytest.mark.parametrize("recipe", ["w4a4kv4", "w4a16"])
def test_the_loss_falls_and_codes_stay(make: Callable[..., Result], tmp_path: Path, recipe: str) -> None:
    make(tmp_path / "plain", recipe, "tuning.epochs=0")
    done = make(tmp_path / "tuned", recipe, "tuning.epochs=2", "tuning.rate=0.001")
    tuning = done.figures["tuning"]
    assert tuning["kept"]
    assert tuning["after"] < tuning["before"]
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "tuned"))
    assert before.keys() == after.keys()
    packed = [name for name in before if name.endswith("weight_packed")]
    assert packed
    assert all(torch.equal(before[name], after[name]) for name in packed)
    assert any(not torch.equal(before[name], after[name]) for name in before if name.endswith("weight_scale"))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_whoever_calls_without_gradients_gets_the_same(
    make: Callable[..., Result], tmp_path: Path, mode: Callable[[], Any]
) -> None:
    wishes = ("w4a16", "tuning.epochs=1", "tuning.rate=0.001")
    plain = make(tmp_path / "plain", *wishes)
    with mode():
        done = make(tmp_path / "out", *wishes)
    assert done.figures["tuning"] == plain.figures["tuning"]
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "out"))
    assert all(torch.equal(before[name], after[name]) for name in before.keys() | after.keys())


def test_what_gets_worse_is_not_kept(make: Callable[..., Result], tmp_path: Path) -> None:
    make(tmp_path / "plain", "w4a16", "tuning.epochs=0")
    done = make(tmp_path / "tuned", "w4a16", "tuning.epochs=1", "tuning.rate=0.1")
    tuning = done.figures["tuning"]
    assert not tuning["kept"]
    assert tuning["after"] >= tuning["before"]
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "tuned"))
    assert all(torch.equal(before[name], after[name]) for name in before.keys() | after.keys())


def test_text_is_cut_into_equal_pieces_and_not_more_than_asked_for() -> None:
    ids = torch.arange(20).reshape(2, 10)

    def pieces(length: int, tokens: int | None = None) -> list[list[int]]:
        cut = CAUSAL_LM.pieces(Batches((Batch({"input_ids": ids}),)), length, tokens)
        return cut[0].tensors["input_ids"].tolist()

    assert pieces(4) == [[0, 1, 2, 3], [4, 5, 6, 7], [10, 11, 12, 13], [14, 15, 16, 17]]
    assert pieces(4, tokens=11) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert pieces(16, tokens=1) == [list(range(10))]


def test_rounding_passes_gradients_and_changes_no_bit() -> None:
    x = torch.randn(1000) * 20
    assert torch.equal(round_through(x), x.round())
    scale = torch.tensor(0.7, requires_grad=True)
    y = fake_quantize(x, scale, None, Grid(4))
    assert torch.equal(y.detach(), fake_quantize(x, scale.detach(), None, Grid(4)))
    y.sum().backward()
    assert scale.grad is not None
    assert scale.grad != 0
