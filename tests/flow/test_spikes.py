"""Spike units from calibration to checkpoint, on a trained model whose feed-forward has one planted in every block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import sinkquant
from sinkquant.flow.plan import make_plan, weight_shapes
from sinkquant.flow.site import SiteWork
from sinkquant.flow.spikes import MOST, PRICE, choose_spikes
from sinkquant.formats.manifest import read_manifest
from sinkquant.models.trace import trace_roles
from sinkquant.recipes import load_recipe
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.walk.walk import BlockRun
from tests import tiny

UNIT, LOUD = 17, 3000.0  # of every feed-forward; about 300 times the other inputs of its down projection
SMALL = ("calibration.sequences=4", "calibration.length=64", "proof.worst=null", "export.dtype=float32")
BARE = (
    "sinks.prefix=none", "sinks.exclude=false", "activations.route=null",
    *(f"transforms.{name}=false" for name in ("fold_norms", "r1", "r2", "r3", "r4", "smooth", "inputs")),
)  # fmt: skip


@pytest.fixture(scope="module")
def spiking(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model_folder` with one unit of every feed-forward so much larger, and its column so much smaller."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[UNIT] *= LOUD
            layer.mlp.down_proj.weight[:, UNIT] /= LOUD
    return tiny.save(model, tmp_path_factory.mktemp("spiking") / "model")


Quantize = Callable[..., Path]


@pytest.fixture
def quantize(spiking: Path, text_file: Path, tmp_path: Path) -> Quantize:
    def made(recipe: str, *overrides: str, name: str = "out", **options: object) -> Path:
        sinkquant.quantize(
            spiking, recipe=recipe, output=tmp_path / name, calibration=str(text_file),
            overrides=[*SMALL, *BARE, *overrides], **options,
        )  # type: ignore[arg-type]  # fmt: skip
        return tmp_path / name

    return made


def linears(folder: Path) -> dict[str, QuantizedLinear]:
    model = sinkquant.load(folder, dtype=torch.float32)
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def kl(folder: Path, spiking: Path, text: Path) -> float:
    return sinkquant.evaluate(folder, baseline=spiking, text=str(text), window=64, max_tokens=640).kl


@pytest.mark.parametrize("recipe", ["w8a8-static", "w4a8kv4"])
def test_the_planted_unit_is_found_and_exact(quantize: Quantize, spiking: Path, unseen_text: Path, recipe: str) -> None:
    plain = ("tuning.epochs=0", "kv_cache.bits=16")
    without = quantize(recipe, *plain, name="without")
    found = quantize(recipe, *plain, "activations.spikes=auto", name="found")
    assert kl(found, spiking, unseen_text) < kl(without, spiking, unseen_text) / 4
    float_model = AutoModelForCausalLM.from_pretrained(spiking, dtype=torch.float32)
    for name, layer in linears(found).items():
        if name.endswith("down_proj"):
            assert UNIT in layer.spike_index
            columns = float_model.get_submodule(name).weight[:, layer.spike_index.long()]
            assert torch.equal(layer.spike_weight, columns)
            assert not layer.quantized_weight().codes[:, layer.spike_index.long()].any()
    shown = {part.scheme.inputs for part in sinkquant.inspect(found).quantized}
    assert any("spike unit" in words for words in shown)
    assert not any("spike unit" in part.scheme.inputs for part in sinkquant.inspect(without).quantized)


def test_a_model_that_learned_its_outliers_gains(stories_path: Path, shared_dir: Path, tmp_path: Path) -> None:
    text = shared_dir / "assets/data/tinystories/tinystories_sample_2m.txt"
    losses = {}
    for units in (0, 2):
        sinkquant.quantize(
            stories_path, recipe="w8a8-static", output=tmp_path / str(units), calibration=str(text),
            overrides=[*SMALL, *BARE, "activations.bits=6", f"activations.spikes={units}"],
        )  # fmt: skip
        losses[units] = kl(tmp_path / str(units), stories_path, text)
    assert losses[2] < 0.92 * losses[0]


def test_linears_of_one_input_share_their_units(quantize: Quantize) -> None:
    found = linears(quantize("w8a8-static", "activations.spikes=2"))
    for block in range(3):
        q, k, v = (found[f"model.layers.{block}.self_attn.{name}_proj"] for name in "qkv")
        assert len(q.spike_index) == 2
        assert torch.equal(q.spike_index, k.spike_index) and torch.equal(q.spike_index, v.spike_index)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_loads_bit_for_bit_and_kernels_agree(quantize: Quantize, dtype: torch.dtype) -> None:
    folder = quantize("w8a8-static", "activations.spikes=2", f"export.dtype={str(dtype).removeprefix('torch.')}")
    ids = torch.tensor([[5, 17, 100, 23, 42, 7]])

    def logits(model: torch.nn.Module) -> Tensor:
        return model(ids).logits.float()  # type: ignore[no-any-return]

    ours = sinkquant.load(folder, dtype=dtype)
    assert torch.equal(logits(ours), logits(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)))
    expected = logits(sinkquant.load(folder, dtype=torch.float32))
    fast = logits(sinkquant.load(folder, dtype=dtype, execution="auto"))
    for found in (logits(ours), fast):
        assert (found - expected).norm() <= (1e-2 if dtype == torch.float32 else 0.1) * expected.norm()
    ours.save_pretrained(folder.with_name("again"))
    again = AutoModelForCausalLM.from_pretrained(folder.with_name("again"), dtype=dtype)
    assert torch.equal(logits(again), logits(ours))


def test_an_interrupted_run_ends_with_the_same_bytes(quantize: Quantize) -> None:
    def stop(stage: str, done: int, _: int) -> None:
        if (stage, done) == ("quantize", 2):
            raise KeyboardInterrupt

    whole = quantize("w4a8kv4", "activations.spikes=auto", "sinks.prefix=[1]", name="whole")
    with pytest.raises(KeyboardInterrupt):
        quantize("w4a8kv4", "activations.spikes=auto", "sinks.prefix=[1]", progress=stop)
    again = quantize("w4a8kv4", "activations.spikes=auto", "sinks.prefix=[1]")
    assert read_manifest(again).files == read_manifest(whole).files


def test_inputs_that_are_not_rounded_have_none(quantize: Quantize) -> None:
    folder = quantize("w8a8-static", "activations.spikes=2", "activations.bits=16", "weights.bits=16")
    assert not any(layer.scheme.spikes for layer in linears(folder).values())


def test_largest_first_and_in_the_order_of_the_channels() -> None:
    peaks = torch.tensor([1.0, 9.0, 2.0, 30.0, 3.0])
    assert choose_spikes(peaks, 2, None).tolist() == [1, 3]
    assert choose_spikes(peaks, 0, None).tolist() == []
    assert choose_spikes(peaks, 9, None).tolist() == [1, 2, 3, 4]  # something is left to round


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ({0: 1.0, 1: 0.1, 2: 0.1, 3: 0.1}, [3]),
        ({0: 1.0, 1: 0.99, 2: 0.1, 3: 0.0999}, [1, 3]),
        ({0: 1.0, 1: 1.0, 2: 0.99, 3: 0.95}, []),
        ({0: 1.0, 1: 1.01 / PRICE, 2: 1.0, 3: 1.0}, []),
        ({0: 1.0, 1: 0.99 / PRICE, 2: 1.0, 3: 1.0}, [3]),
    ],
)
def test_as_many_as_pay(errors: dict[int, float], expected: list[int]) -> None:
    peaks = torch.tensor([1.0, 9.0, 2.0, 30.0, 3.0])
    assert choose_spikes(peaks, 3, lambda spikes: errors[len(spikes)]).tolist() == expected


@pytest.mark.parametrize(
    ("prefix", "overrides", "expected"),
    [
        ((1,), ["activations.route=null"], True),
        ((), ["activations.route=2"], True),
        ((), ["activations.mode=dynamic"], True),
        ((), ["activations.route=null"], False),  # nothing isolates sinks: the range has to hold them
        ((1,), ["sinks.exclude=false"], False),
    ],
)
def test_ranges_leave_out_only_sinks_that_something_isolates(
    tiny_llama: torch.nn.Module, prefix: tuple[int, ...], overrides: list[str], expected: bool
) -> None:
    roles = trace_roles(tiny_llama)
    plan = make_plan(load_recipe("w8a8-static", overrides), prefix, roles, weight_shapes(tiny_llama, roles), None)
    block = roles.blocks[0]
    run = BlockRun(0, block, tiny_llama.get_submodule(block.name), [], [], roles.stacks[0], {})
    assert SiteWork(tiny_llama, run, block.sites[0], plan, 64.0).leaves_sinks_out is expected


@pytest.mark.parametrize(
    ("recipe", "overrides", "why", "expected"),
    [
        ("w8a8-static", [], "it has no positions", {MOST}),
        ("w8a8-static", [], None, {0}),
        ("w8a8-static", ["sinks.prefix=none"], "it has no positions", {0}),
        ("w8a8-static", ["activations.mode=dynamic"], "it has no positions", {0}),
        ("w8a8-static", ["activations.spikes=1"], "it has no positions", {1}),
        ("w8a8-static", ["activations.spikes=0"], "it has no positions", {0}),
        ("w8a8", [], "it has no positions", {0}),
    ],
)
def test_they_take_the_place_of_a_prefix_that_is_not_possible(
    tiny_llama: torch.nn.Module, recipe: str, overrides: list[str], why: str | None, expected: set[int]
) -> None:
    roles = trace_roles(tiny_llama)
    plan = make_plan(load_recipe(recipe, overrides), (), roles, weight_shapes(tiny_llama, roles), why)
    found = {scheme.spikes for scheme in plan.linears.values() if not scheme.rotate}
    assert found == expected
    assert any(note.startswith("spike units") for note in plan.notes) is (expected != {0})
    if plan.recipe.activations.spikes == "auto":
        assert {scheme.spikes for scheme in plan.linears.values() if scheme.rotate} == {0}
