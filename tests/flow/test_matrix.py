"""Models × recipes × formats: every cell is quantized, loaded with the bits that were proved, and inspected.

A new model, recipe or format is one row. Models are tiny and random, with a planted sink, and each is built differently
(`eval/families`); a recipe goes through every format that can hold it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import sinkquant
from eval.families import build, job
from sinkquant.errors import SinkquantError
from sinkquant.formats.format import FORMATS
from sinkquant.quantization.weights import QuantizedWeight
from sinkquant.recipes import load_recipe
from sinkquant.recipes.validate import fixes
from tests.proved import as_proved
from tests.test_extending import Npz

# Rounding leaves less of the logits' spread than this; without the blocks, almost nothing of it is right.
RECIPES = {"w8a8-static": 0.25, "w8a8": 0.15, "w4a16": 0.4, "w4a8kv4": 0.45}
FLIPS = {"deepseek_v3": 2.0}  # times the bound, where rounding sends a token of random weights to another expert
MODELS: dict[str, tuple[str, ...]] = {
    "qwen3": tuple(RECIPES),  # norms on queries and keys
    "gpt_neox": ("w4a8kv4",),  # layer norms, biases, attention and feed-forward side by side
    "opt": ("w4a8kv4", "w8a8"),  # learned positions, inputs that are (tokens, width)
    "phi3": ("w4a8kv4",),  # queries, keys and values in one linear
    "olmo2": ("w4a8kv4",),  # norms behind the sublayers
    "mixtral": ("w4a8kv4", "w8a8", "w4a16"),  # experts, with names of their own on disk
    "qwen2_moe": ("w4a8kv4", "w8a8"),  # a shared expert behind a gate
    "deepseek_v3": ("w8a8",),  # chosen by group, the first block without experts
    "cohere2_moe": ("w8a8",),  # attention and experts read one norm
    "olmoe": ("w4a16",),  # every linear and every expert in one group
    "llama4_text": ("w8a8-static", "w8a8"),  # experts that compute rows of zeros for others' tokens
    "gpt_oss": ("w8a8-static", "w8a8"),  # transposed experts with biases, in one tensor on disk; learned sinks
    "gemma2": ("w4a8kv4",),  # softcapped logits, offset norms
    "minicpm3": ("w4a8kv4",),  # keys and values of two sizes
    "olmo": ("w8a8-static",),  # norms without weights: no parameter would be left
    "stablelm": ("w8a8-static",),  # norms with biases in front of linears without
    "inkling_text": ("w8a8-static",),  # an embedding with a norm in it
    "gpt2": ("w8a8-static",),  # arguments by position, linears of its own
    "bloom": ("w8a8-static",),  # blocks that return tuples, attention of its own
    "mamba": ("w4a16",),  # weights that parents initialize
    "gemma3": ("w4a16",),  # a tower with linears of other classes, names that are others on disk
}
REFUSED = {
    ("modernbert-decoder", "w4a16", "portable"): "looks for the float weight of every linear",
    ("gpt2", "w8a8", "portable"): "linears of this architecture have a class of their own",
}


@dataclass(frozen=True)
class Cell:
    """A model as a folder, the recipe that it is quantized after, and the format."""

    source: Path
    recipe: str
    target: str
    family: str

    def quantize(self, **more: Any) -> Any:
        text, out = text_beside(self.source), self.source.with_name("out")
        overrides = [*job.SMALL, f"target={self.target}"]
        return sinkquant.quantize(
            self.source, recipe=self.recipe, output=out, calibration=str(text), overrides=overrides, **more
        )


def text_beside(source: Path) -> Path:
    return source.with_name("text.txt")


def cells() -> Iterator[Any]:
    with FORMATS.registered("npz", Npz()):
        for family, recipes in MODELS.items():
            for recipe in recipes:
                for target in FORMATS:
                    if not fixes(load_recipe(recipe), target):
                        yield pytest.param((family, recipe, target), id=f"{family}-{recipe}-{target}")


@pytest.fixture
def cell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cell]:
    family, recipe, target = request.param
    text_beside(tmp_path / "model").write_text(build.text(), encoding="utf-8")
    build.build(family, tmp_path / "model")
    with FORMATS.registered("npz", Npz()):
        yield Cell(tmp_path / "model", recipe, target, family)


def tokens() -> Tensor:
    """Text behind BOS, (1, 49)."""
    return torch.tensor([[job.BOS, *build.tokenizer()(build.text(40))["input_ids"][: job.SCORED]]])


def error(source: Path, got: Tensor) -> float:
    """Of the checkpoint's logits behind BOS, relative to the spread of the float model's."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    expected = job.logits(model, tokens())[1:]
    return job.relative(got[-len(expected) :], expected)


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


def stock(out: Path, ids: Tensor, got: Tensor) -> subprocess.CompletedProcess[str]:
    torch.save({"ids": ids, "logits": got}, out.with_suffix(".pt"))
    command = [sys.executable, "-c", STOCK, out, out.with_suffix(".pt")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def loads_in_stock(out: Path, ids: Tensor, got: Tensor, plan: Any) -> None:
    done = stock(out, ids, got)
    assert done.returncode == 0, done.stderr


def stock_refuses(out: Path, ids: Tensor, got: Tensor, plan: Any) -> None:
    if plan.recipe.name == "w4a8kv4" and not plan.prefix:  # OPT: torch's own layer norm guards the end
        assert "Error" in stock(out, ids, got).stderr


WITHOUT_US: dict[str, Callable[..., None]] = {
    "portable": loads_in_stock, "sink-aware": stock_refuses, "npz": lambda *_: None,
}  # fmt: skip


@pytest.mark.parametrize("cell", list(cells()), indirect=True)
def test_a_cell(cell: Cell) -> None:
    done = cell.quantize()
    assert done.figures["transform_error"] <= 1e-4
    out, plan = done.path, done.plan
    model = sinkquant.load(out, dtype=torch.float32)
    assert as_proved(model, out)
    ids = tokens()[:, 1:] if job.BOS in plan.prefix else tokens()
    got = job.logits(model, ids)
    assert error(cell.source, got) < RECIPES[cell.recipe] * FLIPS.get(cell.family, 1.0)
    found = sinkquant.inspect(out)
    assert (found.recipe, found.target, found.prefix) == (cell.recipe, cell.target, plan.prefix)
    rounded = sum(scheme.weight is not None for scheme in plan.linears.values())
    assert sum(part.modules for part in found.quantized) >= rounded > 0
    WITHOUT_US[cell.target](out, ids, got, plan)


@pytest.mark.parametrize(("cell", "sentence"), REFUSED.items(), ids=list(map("-".join, REFUSED)), indirect=["cell"])
def test_what_no_loader_would_load_is_refused_before_the_work(cell: Cell, sentence: str) -> None:
    stages: list[str] = []
    with pytest.raises(SinkquantError, match=sentence):
        cell.quantize(progress=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"load"}


@pytest.mark.parametrize("cell", [("phi3", "w4a8kv4", "sink-aware")], indirect=True, ids=[""])
def test_the_error_would_show_blocks_of_zeros(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = QuantizedWeight.dequantized
    monkeypatch.setattr(QuantizedWeight, "dequantized", lambda self: whole(self) * 0)
    with pytest.raises((SinkquantError, AssertionError)):  # the proof sees it, or the comparison does
        test_a_cell(cell)
