"""A budget of bits: spent where it helps, kept through an interruption, and loaded wherever four bits load."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import sinkquant
from sinkquant.flow import budget
from sinkquant.flow.result import Result
from sinkquant.formats.manifest import read_manifest
from sinkquant.sensitivity.spend import spend

IDS = torch.tensor([[5, 17, 100, 23, 42, 7]])


@pytest.fixture
def make(quantize_tiny: Callable[..., Result], tmp_path: Path) -> Callable[..., Result]:
    return lambda name, recipe, *overrides: quantize_tiny(tmp_path / name, recipe, "weights.method=rtn", *overrides)


def bits_of(result: Result) -> dict[str, int]:
    return {name: scheme.weight.bits for name, scheme in result.plan.linears.items() if scheme.weight}


def test_it_is_spent_where_the_loss_says(
    make: Callable[..., Result], model_folder: Path, unseen_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kl(result: Result) -> float:
        assert result.path is not None
        found = sinkquant.evaluate(
            result.path, baseline=model_folder, text=str(unseen_text), window=128, max_tokens=1024
        )
        return found.kl

    plain, best = make("plain", "w4a16"), make("best", "w4a16", "weights.budget=5")

    def worst_first(losses: Sequence[float], sizes: Sequence[int], room: float) -> tuple[int, ...]:
        return spend([1 / loss for loss in losses], sizes, room)

    monkeypatch.setattr(budget, "spend", worst_first)
    worst = make("worst", "w4a16", "weights.budget=5")
    assert kl(best) < kl(worst) < kl(plain)
    assert set(bits_of(best).values()) == {4, 8}
    assert bits_of(best) != bits_of(worst)


def test_stock_transformers_computes_the_same(make: Callable[..., Result]) -> None:
    made = make("out", "w4a16", "weights.budget=5", "weights.group_size=32")
    assert made.path is not None
    config = json.loads((made.path / "config.json").read_text())["quantization_config"]
    groups = config["config_groups"].values()
    assert {group["weights"]["num_bits"] for group in groups} == {4, 8}
    assert {group["format"] for group in groups} == {"pack-quantized"}
    named = {name: group["weights"]["num_bits"] for group in groups for name in group["targets"]}
    assert named == bits_of(made)
    stock = AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32)
    ours = sinkquant.load(made.path, dtype=torch.float32)
    packed = dict(sinkquant.load(made.path, dtype=torch.float32, execution="auto").named_modules())  # our linears
    expected, got = ours(IDS).logits, stock(IDS).logits
    assert torch.equal(expected, got)
    for name in named:
        assert torch.equal(stock.get_submodule(name).weight, packed[name].dequantized_weight(torch.float32))
    found = sinkquant.inspect(made.path)
    assert {part.scheme.weights.split(" in ")[0] for part in found.quantized} == {"4 bits", "8 bits"}
    (note,) = [note for note in found.notes if "on average" in note]
    assert float(note.split()[0]) <= 5
    assert len(found.figures["sensitivity"]) == budget.SHOWN


def test_an_interrupted_run_raises_the_same_sites(
    make: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("weights.budget=4.8", "sinks.prefix=[1]")
    whole = make("whole", "w4a8kv4", *overrides)
    monkeypatch.setattr("sinkquant.flow.run.quantize_blocks", interrupt := _Interrupt())
    with pytest.raises(KeyboardInterrupt):
        make("out", "w4a8kv4", *overrides)
    monkeypatch.setattr("sinkquant.flow.run.quantize_blocks", interrupt.original)
    monkeypatch.setattr(budget, "measure", None)  # what was measured is kept
    again = make("out", "w4a8kv4", *overrides)
    assert set(bits_of(again).values()) == {4, 8}
    assert bits_of(again) == bits_of(whole)
    assert read_manifest(tmp_path / "out").files == read_manifest(tmp_path / "whole").files
    loaded = sinkquant.load(tmp_path / "out", dtype=torch.float32)
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.equal(loaded(IDS).logits, fresh(IDS).logits)


class _Interrupt:
    def __init__(self) -> None:
        from sinkquant.flow.blocks import quantize_blocks

        self.original = quantize_blocks

    def __call__(self, *_arguments: object) -> None:
        raise KeyboardInterrupt


def test_logits_that_cannot_be_compared_are_refused(
    make: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "measure", lambda *_, **__: None)
    with pytest.raises(sinkquant.UsageError, match=r"set weights\.budget=null"):
        make("out", "w4a16", "weights.budget=5")
    assert not (tmp_path / "out").exists()
