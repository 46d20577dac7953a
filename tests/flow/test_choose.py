"""Without a recipe: what is proposed and why, and that held-out text has the last word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import sinkquant
from sinkquant.errors import UsageError
from sinkquant.flow.choose import proposal
from sinkquant.flow.result import Choice, Result
from sinkquant.recipes import load_recipe
from sinkquant.recipes.plain import plain_counterpart
from sinkquant.sinks.report import Channel, PrefixChoice, SinkReport, Verdict

SMALL = ["calibration.sequences=4", "calibration.length=64"]
CHANNEL = Channel(index=5, blocks=(1,), ratio=90.0, every_token=True)


def report(verdict: Verdict, *channels: Channel) -> SinkReport:
    prefix = PrefixChoice(
        ids=(), tokens=(), reason="", absorbed=True, left=0, trials=(), loss_without=1.0, loss_with=1.0
    )  # fmt: skip
    return SinkReport(
        model="m", verdict=(verdict,), sinks=(), channels=channels, prefix=prefix, residual=(), layers=(),
        threshold=64.0, sweep={}, bos="none", tokens=1, seconds=1.0, calibration="t",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("bits", "target", "found", "name", "word"),
    [
        (None, None, report(Verdict.POSITIONAL), "w8a8-static", "positional"),
        (4, None, report(Verdict.CONTENT), "w4a8kv4", "content"),
        (8, None, report(Verdict.NONE, CHANNEL), "w8a8-static", "outlier channels"),
        (8, None, report(Verdict.NONE), "w8a8", "neither"),
        (4, None, report(Verdict.NONE), "w4a16", "neither"),
        (8, "sink-aware", report(Verdict.NONE), "w8a8-static", "asked"),
        (4, "portable", report(Verdict.POSITIONAL), "w4a16", "asked"),
        (8, None, None, "w8a8-static", "asked"),
    ],
)
def test_what_detection_finds_proposes(
    bits: int | None, target: str | None, found: SinkReport | None, name: str, word: str
) -> None:
    proposed, why = proposal(found, bits, target, ())
    assert proposed == name
    assert word in why


def test_an_override_that_portable_recipes_cannot_have_keeps_the_sink_aware_one() -> None:
    name, why = proposal(report(Verdict.NONE), 8, None, ["weights.group_size=32"])
    assert (name, "--set" in why) == ("w8a8-static", True)


@pytest.mark.parametrize("name", ["w8a8-static", "w8a8", "w4a16", "w4a8kv4"])
def test_the_plain_counterpart_keeps_the_bits_and_nothing_else(name: str) -> None:
    recipe, plain = load_recipe(name), plain_counterpart(name, ["effort=best", "weights.budget=5"])
    assert (plain.tuning.epochs, plain.weights.budget) == (0, None)
    assert not any(value is True for value in plain.transforms.model_dump().values())
    assert (plain.sinks.prefix, plain.sinks.exclude, plain.kv_cache.balance) == ("none", False, False)
    assert (plain.weights.method, plain.activations.center) == ("rtn", False)
    for part, key in (("weights", "bits"), ("weights", "head_bits"), ("activations", "bits"), ("kv_cache", "bits")):
        assert getattr(getattr(plain, part), key) == getattr(getattr(recipe, part), key)
    assert (plain.target, plain.activations.mode) == (recipe.target, recipe.activations.mode)


def choose(model: Path, text: Path, out: Path, *overrides: str, **wishes: Any) -> tuple[Result, Choice]:
    result = sinkquant.quantize(
        model, output=out, calibration=str(text), overrides=[*SMALL, *overrides], overwrite=True, **wishes
    )
    assert result.choice is not None
    return result, result.choice


@pytest.fixture
def uneven(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same function with a few channels 64 times as large as the others: what rotations are for."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).requires_grad_(False)
    for block in model.model.layers:
        block.mlp.up_proj.weight[:3] *= 64
        block.mlp.down_proj.weight[:, :3] /= 64
    folder = tmp_path_factory.mktemp("uneven")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folder


def test_the_recipe_is_kept_where_it_measures_better(uneven: Path, text_file: Path, tmp_path: Path) -> None:
    result, choice = choose(uneven, text_file, tmp_path / "out", bits=4, target="sink-aware")
    assert choice.recipe == choice.candidate == result.plan.recipe.name == "w4a8kv4"
    assert choice.candidate_perplexity is not None
    assert choice.plain_perplexity is not None
    assert result.figures["result_perplexity"] == choice.candidate_perplexity < choice.plain_perplexity
    assert f"{choice.plain_perplexity:.3f}" in choice.reason
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert result.path == tmp_path / "out"
    manifest = json.loads((tmp_path / "out/sinkquant.json").read_text())
    assert manifest["choice"]["reason"] == choice.reason
    assert manifest["recipe"]["name"] == "w4a8kv4"
    sinkquant.load(tmp_path / "out")  # checksums hold


def test_plain_is_written_where_the_recipe_harms(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    # Tokens that never stand in front of a sentence, as a constant in front of all of them.
    result, choice = choose(model_folder, text_file, out, "sinks.prefix=[250,240,230,220]", bits=8, target="sink-aware")
    assert (choice.candidate, choice.recipe) == ("w8a8-static", "plain-w8a8-static")
    assert choice.candidate_perplexity is not None
    assert choice.plain_perplexity is not None
    assert result.figures["result_perplexity"] == choice.plain_perplexity < choice.candidate_perplexity
    assert result.plan.prefix == ()
    assert choice.reason.endswith("so the plain checkpoint is written.")
    assert "comparison" in result.seconds
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    manifest = json.loads((out / "sinkquant.json").read_text())
    assert manifest["recipe"]["name"] == "plain-w8a8-static"
    assert manifest["report"]["verdict"] == "none"
    sinkquant.load(out)


def test_an_interrupted_comparison_leaves_nothing_and_costs_no_block(
    model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    heard: list[tuple[str, int, int]] = []

    def stop(stage: str, done: int, total: int) -> None:
        heard.append((stage, done, total))
        if (stage, done) == ("plain quantize", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose(model_folder, text_file, tmp_path / "out", bits=8, target="sink-aware", progress=stop)
    assert list(tmp_path.iterdir()) == []
    blocks = [done for stage, done, _ in heard if stage == "quantize"]
    assert len(blocks) > 1

    heard.clear()
    with pytest.raises(KeyboardInterrupt):
        choose(model_folder, text_file, tmp_path / "out", bits=8, target="sink-aware", progress=stop)
    assert len([done for stage, done, _ in heard if stage == "quantize"]) < len(blocks)  # all blocks were stored


def test_a_dry_run_tells_the_proposal(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    result = sinkquant.quantize(model_folder, dry_run=True, calibration=str(text_file), overrides=SMALL)
    assert result.choice is not None
    assert (result.choice.recipe, result.choice.plain_perplexity) == ("w8a8", None)
    assert "neither sinks nor outlier channels" in result.plan.notes[0]


def test_no_bits_are_refused(model_folder: Path) -> None:
    with pytest.raises(UsageError, match="bits is 0 but must be 4 or 8"):
        sinkquant.quantize(model_folder, bits=0, dry_run=True)


def test_a_recipe_and_wishes_exclude_each_other(model_folder: Path) -> None:
    with pytest.raises(UsageError, match="leave out --recipe"):
        sinkquant.quantize(model_folder, recipe="kv4", bits=8, dry_run=True)
