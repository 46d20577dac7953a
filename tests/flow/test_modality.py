"""Rows of images with static ranges of their own: chosen, computed, told at run time, stored and loaded again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

import sinkquant
from sinkquant.errors import SinkquantError, UsageError
from sinkquant.flow.block import quantize_block
from sinkquant.flow.modality import PAYS, figures_of, tells_apart
from sinkquant.flow.plan import Plan, make_plan, weight_shapes
from sinkquant.formats.manifest import read_manifest
from sinkquant.formats.sink_aware import SINK_AWARE
from sinkquant.formats.write import linear_schemes
from sinkquant.inputs.batches import Batch
from sinkquant.models.attention import own_attention
from sinkquant.models.media import Media, media_rows, watch_media
from sinkquant.models.roles import Roles
from sinkquant.models.stubs import call_model
from sinkquant.models.trace import trace_roles
from sinkquant.recipes import load_recipe
from sinkquant.runtime.config import SinkquantQuantization
from sinkquant.runtime.kernels.int8 import Int8Kernel
from sinkquant.runtime.kernels.selection import Selection
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.register import register_config, register_runtime
from sinkquant.tasks.image_text import IMAGE_TEXT
from sinkquant.walk.walk import BlockRun, Walk
from tests.proved import as_proved
from tests.stacks import chat, make, text
from tests.tasks.sighted import captioned, save_llava
from tests.tasks.sighted import make as sighted

IMAGE, LOUD = 96, 7  # the id in whose place patches stand, and a channel that is large in theirs alone
STACK = "model.language_model.layers"
SITE = f"{STACK}.0.self_attn.q_proj"
PLAIN = (
    "sinks.prefix=none", "sinks.exclude=false", "transforms.fold_norms=false", "transforms.r1=false",
    "transforms.r2=false", "transforms.r3=false", "transforms.r4=false", "activations.route=null",
    "weights.head_bits=16", "weights.embedding_bits=16",
)  # fmt: skip


def planted() -> Any:
    """A model whose patches reach the first block with one channel thirty times as large as any of text."""
    model = make("LLaVA")
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.bias[LOUD] = 20.0
        model.model.language_model.embed_tokens.weight[:, LOUD] = 0.0
        model.model.language_model.layers[0].input_layernorm.weight[LOUD] = 30.0
    return model


def quantized(
    *overrides: str, model: Any = None, batch: Batch | None = None
) -> tuple[Any, Roles, Plan, dict[str, float], list[Tensor]]:
    """The model, what was found, planned and gained, and what its last block gave on the way."""
    model, few = planted() if model is None else model, chat(1) if batch is None else batch
    roles, gains = trace_roles(model, few), dict[str, float]()
    recipe = load_recipe("w8a8-static", [*PLAIN, *overrides])
    plan = make_plan(recipe, (), roles, weight_shapes(model, roles), None)
    if roles.media is not None and tells_apart(plan.linears):
        watch_media(model, roles.media)

    def visit(run: BlockRun) -> list[Tensor]:
        outputs = quantize_block(model, run, plan, 64.0)
        gains.update(run.gains)
        return outputs

    return model, roles, plan, gains, Walk(model, roles, [chat(4) if batch is None else batch]).run(visit)


@pytest.fixture(scope="module")
def own() -> Any:
    return quantized("activations.modality=own")


def linears(model: nn.Module) -> Iterator[tuple[str, QuantizedLinear]]:
    yield from ((name, m) for name, m in model.named_modules() if isinstance(m, QuantizedLinear) and STACK in name)


@torch.no_grad()
def answer(model: Any, batch: Batch) -> Tensor:
    with own_attention(model):
        return call_model(model, batch).logits


def seen_by(model: Any, layer: nn.Module, batch: Batch) -> Tensor:
    """What a layer is given (N, T, in)."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    answer(model, batch)
    handle.remove()
    return seen[0]


def by_hand(layer: QuantizedLinear, x: Tensor, media: Tensor) -> Tensor:
    """In float64, row after row."""
    weight = layer.quantized_weight()
    dense = weight.codes.double() * weight.scale.double()
    rows = []
    for row, kind in zip(x.flatten(0, 1), media.flatten().long().tolist(), strict=True):
        scale = layer.input_scale[kind]
        zero = torch.zeros(()) if layer.scheme.activation.symmetric else layer.input_zero_point[kind].float()  # type: ignore[union-attr]
        codes = (row / scale + zero).round().clamp(-128, 127)
        rows.append((codes - zero).double() * scale.double() @ dense.T)
    y = torch.stack(rows).reshape(*x.shape[:-1], -1)
    return y if layer.bias is None else y + layer.bias.double()


@pytest.mark.parametrize("symmetric", ["true", "false"])
@pytest.mark.parametrize("kernel", [False, True])
def test_every_row_is_rounded_in_the_range_of_its_kind(symmetric: str, kernel: bool) -> None:
    model, *_ = quantized("activations.modality=own", f"activations.symmetric={symmetric}")
    batch = chat(3)
    media = batch.tensors["input_ids"] == IMAGE
    for name, layer in linears(model):
        assert layer.input_scale.shape == (2,), name
        x = seen_by(model, layer, batch)
        if kernel:
            layer.use(Selection.always(Int8Kernel()), torch.float32)
        found: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _m, _a, y, found=found: found.append(y.clone()))
        answer(model, batch)
        handle.remove()
        expected = by_hand(layer, x, media)
        assert (found[0].double() - expected).norm() < 1e-5 * expected.norm(), name


def test_what_the_walk_has_seen_is_what_the_model_computes(own: Any) -> None:
    model, roles, _, _, outputs = own
    last = model.get_submodule(roles.blocks[-1].name)
    given: list[Tensor] = []
    handle = last.register_forward_hook(lambda _m, _a, y: given.append(y if isinstance(y, Tensor) else y[0]))
    answer(model, chat(4))
    handle.remove()
    assert torch.equal(given[0], outputs[0])


def test_a_loud_image_has_a_range_of_its_own_where_that_pays() -> None:
    model, _, plan, gains, _ = quantized()
    assert "where that measures better" in " ".join(plan.notes)
    schemes = linear_schemes(model)
    took = {name for name, scheme in schemes.items() if scheme.activation is not None and scheme.activation.media}
    assert SITE in took and gains[SITE] > 20
    assert took < {name for name, _ in linears(model)}  # not everywhere: behind the norm of another block all is alike
    figures = figures_of(gains, schemes)
    assert figures["inputs"] == len(gains) > figures["inputs_with_two_ranges"] > 0
    assert figures["error_divided_by"] > 1.1
    text_scale, media_scale = model.get_submodule(SITE).input_scale.tolist()
    assert media_scale > 10 * text_scale


def test_text_gains(own: Any) -> None:
    batch = chat(2)
    media = batch.tensors["input_ids"] == IMAGE
    exact = answer(planted(), batch)

    def off(model: Any, rows: Tensor) -> float:
        return float((answer(model, batch) - exact)[rows].norm())

    one, *_ = quantized("activations.modality=one")
    assert media_rows(one) is None
    assert off(own[0], ~media) < 0.7 * off(one, ~media)


def test_alike_rows_have_one_range() -> None:
    model, roles, _, gains, _ = quantized(model=make("LLaVA"))
    assert roles.media == Media(STACK, "input_ids", (IMAGE,))
    assert any(gain <= PAYS for gain in gains.values())
    for name, layer in linears(model):
        site = next(s.linears[0] for b in roles.blocks for s in b.sites if name in s.linears)
        assert len(layer.input_scale) == (2 if gains[site] > PAYS else 1)


def test_towers_and_models_of_text_know_of_no_media(own: Any) -> None:
    model, *_ = own
    tower = [m for n, m in model.named_modules() if isinstance(m, QuantizedLinear) and STACK not in n]
    assert tower and all(len(layer.input_scale) == 1 for layer in tower)
    assert all("media" not in layer.scheme.to_dict()["activation"] for layer in tower)
    plain = make("OPT")
    roles = trace_roles(plain, text(1))
    plan = make_plan(
        load_recipe("w8a8-static", ["activations.modality=own"]), (), roles, weight_shapes(plain, roles), None
    )
    assert roles.media is None and not tells_apart(plan.linears)
    assert "no rows of images stand among text" in " ".join(plan.notes)


@pytest.mark.parametrize("cached", [True, False])
def test_writing_behind_an_image(own: Any, cached: bool) -> None:
    """Steps of a prompt with padding hold text alone; the first one holds the image."""
    model, batch = own[0], chat(2)
    ids, mask = batch.tensors["input_ids"], batch.tensors["attention_mask"].flip(1)
    ids = torch.where(mask.bool(), ids, 0)
    pixels = batch.tensors["pixel_values"]
    ids[1] = torch.cat([torch.zeros(3, dtype=torch.int64), batch.tensors["input_ids"][1, :-3]])
    with own_attention(model):
        made = model.generate(
            input_ids=ids, attention_mask=mask, pixel_values=pixels, max_new_tokens=4, min_new_tokens=4,
            do_sample=False, use_cache=cached, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        one = model.generate(
            input_ids=batch.tensors["input_ids"][1:, :-3], pixel_values=pixels[1:], max_new_tokens=4,
            min_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    for step, alone in zip(made.logits, one.logits, strict=True):
        assert (step[1] - alone[0]).abs().max() < 0.05 * alone[0].abs().max()
    assert torch.equal(made.sequences[1, -4:], one.sequences[0, -4:])


def test_parts_are_told_too_and_what_nothing_tells_is_refused(own: Any) -> None:
    model, batch = own[0], chat(2)
    expected = answer(model, batch)
    ids, pixels, mask = (batch.tensors[name] for name in ("input_ids", "pixel_values", "attention_mask"))
    with own_attention(model), torch.no_grad():
        states = model.model(ids, pixels, attention_mask=mask).last_hidden_state  # by position
        assert torch.equal(model.lm_head(states), expected)
        embeds = model.get_input_embeddings()(ids)
        with pytest.raises(SinkquantError, match="call the model with input_ids, not with embeddings"):
            model(inputs_embeds=embeds)
        with pytest.raises(SinkquantError, match="nothing tells which they are"):
            model.model.language_model(inputs_embeds=embeds)
    assert torch.equal(answer(model, batch), expected)  # nothing is left of a call that failed
    assert media_rows(model).rows is None  # type: ignore[union-attr]


def test_a_copy_has_rows_of_its_own(own: Any) -> None:
    model, batch = own[0], chat(2)
    made = copy.deepcopy(model)
    assert media_rows(made) is not media_rows(model)
    assert made.get_submodule(SITE).media is media_rows(made)
    assert torch.equal(answer(made, batch), answer(model, batch))


def test_it_compiles(own: Any) -> None:
    torch._dynamo.reset()
    model, batch = copy.deepcopy(own[0]), chat(2)
    expected = answer(model, batch)
    with own_attention(model), torch.no_grad():
        compiled = torch.compile(model, backend="eager")
        found = compiled(**batch.tensors, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_stored_and_loaded_with_the_same_bits(own: Any, tmp_path: Path) -> None:
    model, roles, plan, *_ = own
    model = copy.deepcopy(model)
    expected = answer(model, chat(2))
    SINK_AWARE.write(model, roles, plan, tmp_path, {"bos": False, "model_fingerprint": None}, torch.float32)
    register_config()
    register_runtime()
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.config.quantization_config.media == Media(STACK, "input_ids", (IMAGE,))
    assert torch.equal(answer(loaded, chat(2)), expected)
    stored = loaded.config.quantization_config.to_dict()
    assert SinkquantQuantization.from_dict(stored).to_dict() == stored
    words = SINK_AWARE.schemes(stored)
    assert words[SITE].inputs == "8 bits static, images in a range of their own"
    assert words["model.vision_tower.encoder.layers.0.mlp.fc1"].inputs == "8 bits static"


@pytest.mark.parametrize(
    ("recipe", "overrides", "match"),
    [
        (
            "w8a8",
            ("activations.mode=static",),
            "a portable recipe .* cannot have activations.modality=own: set activations.modality=one",
        ),
        ("w4a8kv4", ("activations.mode=dynamic",), "modality=own is for static inputs but inputs are dynamic"),
        ("kv4", (), "modality=own is for static inputs but inputs are not rounded"),
    ],
)
def test_recipes_that_cannot_have_it(recipe: str, overrides: Sequence[str], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        load_recipe(recipe, [*overrides, "activations.modality=own"])


def test_the_usual_choice_is_no_part_of_a_recipes_digest() -> None:
    usual, asked = (load_recipe("w8a8-static", [f"activations.modality={value}"]) for value in ("auto", "own"))
    assert usual.digest() == load_recipe("w8a8-static").digest() != asked.digest()


@pytest.mark.parametrize("kind", ["smolvlm", "internvl", "gemma3", "mllama"])
def test_other_families(kind: str) -> None:
    """Images of any number of rows, with positions of their own or added in later blocks too."""
    batch = IMAGE_TEXT.probe(model := sighted(kind))
    model, roles, _, gains, outputs = quantized("activations.modality=own", model=model, batch=batch)
    assert roles.media is not None and roles.media.stack == roles.list_name
    assert gains.keys() == {
        site.linears[0] for block in roles.stacks[-1].blocks for site in block.sites if site.stack is None
    }
    last, given = model.get_submodule(roles.blocks[-1].name), list[Tensor]()
    handle = last.register_forward_hook(lambda _m, _a, y: given.append(y if isinstance(y, Tensor) else y[0]))
    answer(model, batch)
    handle.remove()
    assert torch.equal(given[0], outputs[0])


def test_every_command(tmp_path: Path) -> None:
    """Proved, loaded, run in a process of its own and shown; the figures say what it gained."""
    source, photos = save_llava(tmp_path / "model"), captioned(tmp_path / "photos", 40)
    done = sinkquant.quantize(
        source, recipe="w8a8-static", output=tmp_path / "out", calibration=str(photos),
        overrides=["calibration.sequences=1", "calibration.length=64", "activations.modality=own"],
    )  # fmt: skip
    said = "rows of images have static ranges of their own in 21 linears"
    assert said in done.plan.notes
    figures = read_manifest(tmp_path / "out").figures["ranges_by_modality"]
    assert (figures["inputs"], figures["inputs_with_two_ranges"], len(figures["gains"])) == (12, 12, 12)
    model = sinkquant.load(tmp_path / "out", execution="auto")
    assert as_proved(sinkquant.load(tmp_path / "out"), tmp_path / "out")
    probe = IMAGE_TEXT.probe(model, 2)
    exact = IMAGE_TEXT.answer(sinkquant.load(tmp_path / "out"), probe)
    assert (IMAGE_TEXT.answer(model, probe) - exact).abs().max() < 0.02 * exact.abs().max()
    assert sinkquant.verify(tmp_path / "out").difference.acceptable
    assert any(
        "images in a range of their own" in part.scheme.inputs for part in sinkquant.inspect(tmp_path / "out").quantized
    )


@pytest.mark.slow
def test_a_trained_model_whose_images_spread_wider_than_its_text(llava_path: Path) -> None:
    """A tower and the first blocks of SmolLM2 with a trained connector between them, on a drawn image."""
    model = AutoModelForImageTextToText.from_pretrained(llava_path, dtype=torch.float32).eval().requires_grad_(False)
    model.model.language_model.layers = model.model.language_model.layers[:3]
    processor, image = (
        AutoProcessor.from_pretrained(llava_path),
        Image.effect_mandelbrot((224, 224), (-2, -1, 1, 1), 40),
    )
    prompt = f"User: {processor.image_token}\nWhat is in the picture? Assistant: a photo of a fractal"
    made = processor(images=[image.convert("RGB")], text=[prompt], return_tensors="pt")
    batch = Batch({name: made[name] for name in ("input_ids", "pixel_values")})
    media = batch.tensors["input_ids"] == model.config.image_token_id
    exact = answer(model, batch)[~media]
    found = {}
    for modality in ("one", "own"):
        made, _, _, gains, _ = quantized(f"activations.modality={modality}", model=copy.deepcopy(model), batch=batch)
        found[modality] = float((answer(made, batch)[~media] - exact).norm() / exact.norm())
    assert int(media.sum()) == 196
    assert gains[SITE] > 2 and gains[f"{STACK}.2.mlp.down_proj"] > 3
    assert found["own"] < 0.95 * found["one"] < 0.1
