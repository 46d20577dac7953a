"""Experts in a run: super experts keep their bits, and how many tokens chose whom is told, with a remedy that works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sinkquant
from sinkquant.flow.coverage import coverage_note
from sinkquant.flow.result import Result
from sinkquant.formats.facts import Experts
from sinkquant.formats.manifest import read_manifest
from sinkquant.recipes import CalibrationSpec
from tests.conftest import SMALL
from tests.planted_experts import BLOCK, BLOCKS, EXPERTS, saved

FAST = ("tuning.epochs=0", "calibration.bos=always", "proof.worst=null")


@pytest.fixture
def quantize(tmp_path: Path, text_file: Path) -> Callable[..., Result]:
    def run(recipe: str, *overrides: str, writer: int | str = 2, progress: Any = None) -> Result:
        model = saved(tmp_path / f"model-{writer}", writer=writer)
        out, every = tmp_path / f"out-{len(list(tmp_path.iterdir()))}", (*SMALL, *FAST, *overrides)
        return sinkquant.quantize(
            model, recipe=recipe, output=out, overrides=every, calibration=str(text_file), progress=progress
        )

    return run


@pytest.mark.parametrize(
    ("bits", "writer", "overrides"),
    [
        (8, 2, ()),
        (16, 2, ("weights.method=rtn",)),
        (16, 0, ("activations.bits=16",)),  # the first linear of what experts share stays as it is
    ],
)
def test_super_experts_keep_their_bits(
    quantize: Callable[..., Result], bits: int, writer: int, overrides: tuple[str, ...]
) -> None:
    made = quantize("w4a8kv4", f"weights.super_experts={bits}", *overrides, writer=writer)
    assert made.path is not None
    kept = f"model.layers.{BLOCK}.mlp.experts.{writer}."
    assert {n for n, own in made.plan.bits.items() if n in made.plan.linears and own != 4} == {
        f"{kept}{part}_proj" for part in ("gate", "up", "down")
    }
    assert {made.plan.bits[n] for n in made.plan.linears if n.startswith(kept)} == {bits}
    (note,) = [note for note in made.plan.notes if note.startswith("super experts")]
    assert note.startswith(f"super experts (block {BLOCK}: {writer}) have {bits} bits a weight, {_share(made):.1%} of ")
    loaded = sinkquant.load(made.path, dtype=torch.float32)
    assert {_bits(loaded.get_submodule(n)) for n in made.plan.linears if n.startswith(kept)} == {bits}
    assert {_bits(loaded.get_submodule(n)) for n in made.plan.linears if not n.startswith(kept)} == {4}
    fast = sinkquant.load(made.path, execution="auto")
    ids = torch.arange(24)[None]
    torch.testing.assert_close(fast(ids).logits.float(), loaded(ids).logits, rtol=0.1, atol=0.3)


def _share(made: Result) -> float:
    sizes = {name: made.plan.shapes[name][0] * made.plan.shapes[name][1] for name in made.plan.linears}
    return sum(size for name, size in sizes.items() if made.plan.bits[name] != 4) / sum(sizes.values())


def _bits(linear: Any) -> int:
    scheme = getattr(linear, "scheme", None)
    return 16 if scheme is None or scheme.weight is None else scheme.weight.bits  # type: ignore[no-any-return]


def test_a_model_without_super_experts_says_so(quantize: Callable[..., Result]) -> None:
    made = quantize("w8a8-static", "weights.bits=4", "weights.super_experts=8", writer="nobody")
    assert "weights.super_experts=8 changes nothing: detection found none" in made.plan.notes
    assert made.report is not None
    assert made.report.super_experts == ()


def test_few_tokens_are_told_with_a_remedy_that_works(quantize: Callable[..., Result]) -> None:
    made = quantize("w8a8-static", "calibration.sequences=1", "calibration.length=64")
    assert made.path is not None
    assert read_manifest(made.path).experts == list(made.experts) == list(sinkquant.inspect(made.path).experts)
    assert [one.module for one in made.experts] == [f"model.layers.{block}.mlp.experts" for block in range(BLOCKS)]
    assert all(len(one.tokens) == EXPERTS and sum(one.tokens) == 2 * 64 for one in made.experts)
    assert {one.wanted for one in made.experts} == {96}  # of the down projections
    note = made.plan.notes[-1]
    cold = sum(one.cold for one in made.experts)
    assert note.startswith(f"{cold} of {BLOCKS * EXPERTS} experts were chosen by fewer tokens")
    again = quantize("w8a8-static", note.partition("--set ")[2], "calibration.length=64")
    assert sum(one.cold for one in again.experts) < cold
    assert min(min(one.tokens) for one in again.experts) > min(min(one.tokens) for one in made.experts)


def test_an_interrupted_run_knows_what_chose_whom(
    quantize: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SINKQUANT_CACHE", str(tmp_path / "cache"))
    whole = quantize("w8a8-static")

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("quantize", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize("w8a8-static", progress=stop)
    seen: list[int] = []
    again = quantize("w8a8-static", progress=lambda stage, done, _: seen.append(done) if stage == "quantize" else None)
    assert seen[0] == 2
    assert again.experts == whole.experts
    assert len(again.experts) == BLOCKS


def test_nothing_is_said_where_every_expert_is_chosen_often() -> None:
    told = (Experts(module="a", tokens=[96, 100], wanted=96),)
    assert coverage_note(told, CalibrationSpec()) is None
    few = (*told, Experts(module="b", tokens=[0, 200], wanted=96))
    note = coverage_note(few, CalibrationSpec(sequences=2**15))
    assert note is not None
    assert note.startswith("1 of 4 experts")
    assert note.endswith("--set calibration.sequences=65536")
    assert "--set" not in (coverage_note(few, CalibrationSpec(sequences=2**16)) or "--set")
