"""Families that are built differently, from plain model to loaded checkpoint, compared with the float model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sinkquant
from eval.families import build, job
from sinkquant.errors import SinkquantError
from sinkquant.models.norm import norm_kind
from sinkquant.quantization.weights import QuantizedWeight

# Rounding leaves less of the logits' spread than this; without the blocks, almost nothing of it is right.
LIMIT = {"w8a8-static": 0.25, "w8a8": 0.15, "w4a16": 0.4, "w4a8kv4": 0.45}
SINK_AWARE = {
    "gpt_neox": "w4a8kv4",  # layer norms, biases, attention and feed-forward side by side
    "opt": "w4a8kv4",  # learned positions
    "phi3": "w4a8kv4",  # queries, keys and values in one linear
    "olmo2": "w4a8kv4",  # norms behind the sublayers
    "mixtral": "w4a8kv4",  # fused experts
    "gemma2": "w4a8kv4",  # softcapped logits, offset norms
    "minicpm3": "w4a8kv4",  # keys and values of two sizes
    "olmo": "w8a8-static",  # norms without weights: no parameter would be left
    "stablelm": "w8a8-static",  # norms with biases in front of linears without
    "inkling_text": "w8a8-static",  # an embedding with a norm in it
    "gpt2": "w8a8-static",  # arguments by position, linears of its own
    "bloom": "w8a8-static",  # blocks that return tuples, attention of its own
}
PORTABLE = {
    "mixtral": "w8a8",  # tensors that loading merges
    "opt": "w8a8",  # inputs that are (tokens, width)
    "mamba": "w4a16",  # weights that parents initialize
    "gemma3": "w4a16",  # a tower with linears of other classes
}
REFUSED = {
    "modernbert-decoder": ("w4a16", "looks for the float weight of every linear"),
    "llama4_text": ("w8a8", "takes the experts of this architecture apart"),
}
STOCK = """
import sys, torch
from transformers import AutoModelForCausalLM
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
stored = torch.load(sys.argv[2])
with torch.no_grad():
    got = model.eval()(input_ids=stored["ids"], use_cache=False).logits[0]
assert (got - stored["logits"]).abs().max() <= 1e-5 * stored["logits"].abs().max()
"""


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(build.text(), encoding="utf-8")
    build.build(request.param, tmp_path / "model")
    return tmp_path / "model"


def tokens() -> Tensor:
    """Text behind BOS, (1, 49)."""
    return torch.tensor([[job.BOS, *build.tokenizer()(build.text(40))["input_ids"][: job.SCORED]]])


def quantized(source: Path, recipe: str) -> tuple[Path, Tensor, Tensor, Any]:
    """The checkpoint, its tokens and logits, and the run."""
    out = source.parent / "out"
    done = sinkquant.quantize(
        source, recipe=recipe, output=out, overrides=job.SMALL, calibration=str(source.parent / "text.txt")
    )
    ids = tokens()[:, 1:] if job.BOS in done.plan.prefix else tokens()
    return out, ids, job.logits(sinkquant.load(out, dtype=torch.float32), ids), done


def error(source: Path, got: Tensor) -> float:
    """Of the checkpoint's logits behind BOS, relative to the spread of the float model's."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    expected = job.logits(model, tokens())[1:]
    return job.relative(got[-len(expected) :], expected)


def stock(out: Path, ids: Tensor, got: Tensor) -> subprocess.CompletedProcess[str]:
    torch.save({"ids": ids, "logits": got}, out.with_suffix(".pt"))
    command = [sys.executable, "-c", STOCK, out, out.with_suffix(".pt")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("source", "recipe"), SINK_AWARE.items(), indirect=["source"], ids=list(SINK_AWARE))
def test_a_sink_aware_checkpoint(source: Path, recipe: str) -> None:
    out, ids, got, done = quantized(source, recipe)
    assert done.figures["transform_error"] <= 1e-4
    assert error(source, got) < LIMIT[recipe]
    if done.plan.recipe.name == "w4a8kv4" and not done.plan.prefix:  # OPT: torch's own layer norm guards the end
        assert "Error" in stock(out, ids, got).stderr


@pytest.mark.parametrize(("source", "recipe"), PORTABLE.items(), indirect=["source"], ids=list(PORTABLE))
def test_a_portable_checkpoint_in_stock_transformers(source: Path, recipe: str) -> None:
    out, ids, got, _ = quantized(source, recipe)
    assert error(source, got) < LIMIT[recipe]
    loaded = stock(out, ids, got)
    assert loaded.returncode == 0, loaded.stderr


@pytest.mark.parametrize(("source", "case"), REFUSED.items(), indirect=["source"], ids=list(REFUSED))
def test_what_no_loader_would_load_is_refused_before_the_work(source: Path, case: tuple[str, str]) -> None:
    recipe, sentence = case
    stages: list[str] = []
    with pytest.raises(SinkquantError, match=sentence):
        sinkquant.quantize(
            source, recipe=recipe, output=source.parent / "out", overrides=job.SMALL,
            calibration=str(source.parent / "text.txt"), progress=lambda stage, *_: stages.append(stage),
        )  # fmt: skip
    assert set(stages) == {"load"}


@pytest.mark.parametrize("source", ["phi3"], indirect=True)
def test_the_error_would_show_blocks_of_zeros(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = QuantizedWeight.dequantized
    monkeypatch.setattr(QuantizedWeight, "dequantized", lambda self: whole(self) * 0)
    with pytest.raises((SinkquantError, AssertionError)):  # the proof sees it, or the comparison does
        _, _, got, _ = quantized(source, "w4a8kv4")
        assert error(source, got) < LIMIT["w4a8kv4"]


def test_a_norm_with_a_gate_is_no_norm_to_fold() -> None:
    class Gated(torch.nn.LayerNorm):
        def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * gate

    assert norm_kind(Gated(8)) is None
    assert norm_kind(torch.nn.LayerNorm(8)) is not None
