"""Models with a table of positions: the text behind the prefix as constants is the text behind it in context."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import sinkquant
from eval.families.build import scale
from eval.families.configs import tiny_config
from sinkquant.flow.plan import Plan, make_plan, weight_shapes
from sinkquant.flow.transform import no_prefix, transform
from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Positions
from sinkquant.models.trace import trace_roles
from sinkquant.models.transposed import with_linears
from sinkquant.recipes import load_recipe
from sinkquant.sinks.report import Verdict
from sinkquant.tasks.causal_lm import CAUSAL_LM
from tests import planted
from tests.planted import PLACES, PLANTED
from tests.proved import as_proved
from tests.sessions import text_session

PREFIX = (1, 7)
FIRST = {  # row of the first position, and whether padded rows are numbered by the mask
    "gpt2": (0, True), "gpt_bigcode": (0, True), "bert": (0, True), "opt": (2, True), "biogpt": (2, True),
    "bart": (2, False), "roberta": (1, False), "pegasus": (0, False), "marian": (0, False),
}  # fmt: skip
SMALL = ("calibration.sequences=4", "calibration.length=64", "export.dtype=float32")
PLAIN = ("activations.route=null", *(f"transforms.{name}=false" for name in ("fold_norms", "r1", "r2", "r3", "r4")))
Quantized = Callable[..., Path]


def made(family: str) -> Any:
    torch.manual_seed(0)
    config = tiny_config(family)
    if hasattr(config, "encoder_layers"):
        config.encoder_layers = config.decoder_layers  # by which the cache of such decoders goes
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    with_linears(model)
    scale(model)
    return model


def ids(rows: int, length: int) -> Tensor:
    return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(0))


def planned(model: Any, recipe: str, *overrides: str) -> tuple[Any, Plan]:
    roles = trace_roles(model)
    session = text_session(model, ids(2, 96), roles)
    why = no_prefix(session, PREFIX)
    return session, make_plan(load_recipe(recipe, overrides), PREFIX, roles, weight_shapes(model, roles), why)


@pytest.mark.parametrize("recipe", ["w8a8-static", "w4a8kv4"])
@pytest.mark.parametrize("family", FIRST)
def test_a_text_behind_the_constants(family: str, recipe: str) -> None:
    model, (first, counts) = made(family), FIRST[family]
    text = ids(1, 12)
    expected = CAUSAL_LM.alone(model, Batch({"input_ids": text}), PREFIX)
    session, plan = planned(model, recipe)
    table, places = session.roles.positions.table, session.roles.positions.places
    assert (session.roles.positions.first, plan.prefix) == (first, PREFIX)
    assert transform(session, plan) <= 1e-5
    assert len(model.get_parameter(table)) == first + places - 2
    assert model.config.max_position_embeddings == tiny_config(family).max_position_embeddings - 2
    assert f"texts have at most {places - 2} tokens in place of {places}" in " ".join(plan.notes)

    def near(logits: Tensor) -> None:
        torch.testing.assert_close(logits, expected, atol=1e-4 * float(expected.abs().max()), rtol=0)

    with torch.no_grad():
        near(model(text, use_cache=False).logits[0])
        begun = model(text[:, :5], use_cache=True)
        logits, cache = [begun.logits[0]], begun.past_key_values
        for token in text[0, 5:]:
            step = model(token.reshape(1, 1), past_key_values=cache, use_cache=True)
            logits.append(step.logits[0])
        near(torch.cat(logits))
        padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), text], dim=1)
        mask = (torch.arange(15) >= 3).long()[None]
        if counts:
            near(model(padded, attention_mask=mask, use_cache=False).logits[0, 3:])


@pytest.mark.parametrize("family", PLANTED)
def test_generation_is_that_behind_the_prefix_in_context(family: str) -> None:
    model, text = PLANTED[family](), ids(2, 6)
    with_linears(model)
    settings = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    context = torch.cat([torch.tensor([PREFIX, PREFIX]), text], dim=1)
    expected = model.generate(context, attention_mask=torch.ones_like(context), **settings)[:, 2:]
    session, plan = planned(model, "w8a8-static")
    transform(session, plan)
    padded = torch.cat([torch.zeros(2, 4, dtype=torch.int64), text], dim=1)
    mask = (torch.arange(10) >= 4).long().expand(2, -1)
    assert torch.equal(model.generate(text, attention_mask=torch.ones_like(text), **settings), expected)
    assert torch.equal(model.generate(padded, attention_mask=mask, **settings)[:, 4:], expected)


def test_what_the_trace_finds() -> None:
    assert trace_roles(made("opt")).positions == Positions("model.decoder.embed_positions.weight", 2, 512, counted=True)
    assert trace_roles(made("llama")).positions is None
    shared = made("gpt2")
    shared.lm_head.weight = shared.transformer.wpe.weight
    assert trace_roles(shared).positions is None


def computed(model: Any) -> None:
    model._keys_to_ignore_on_save = [r"transformer\.wpe"]


def longer(model: Any) -> None:
    model.config.n_positions = 77


def sines(model: Any) -> None:
    """Positions are a table, and a function beside it."""

    def add(_: Any, args: Any) -> Any:
        _, length, width = args[0].shape
        return (args[0] + (torch.arange(length)[:, None] + torch.arange(width)).sin(),)

    model.transformer.drop.register_forward_pre_hook(add)


REFUSED = {
    "ctrl": ("ctrl", lambda _: None, "neither rotary nor a table"),
    "computed": ("gpt2", computed, "not stored but computed"),
    "sines": ("gpt2", sines, "as a constant it gives other logits"),
    "another length": ("gpt2", longer, "not have as many rows as max_position_embeddings says"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_why_there_is_no_prefix(case: str) -> None:
    family, change, reason = REFUSED[case]
    model = made(family)
    change(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, plan = planned(model, "w8a8-static")
    assert plan.prefix == ()
    assert any(note.startswith("no prefix: ") and reason in note for note in plan.notes)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.saved(request.param, tmp_path_factory.mktemp(request.param) / "model")


@pytest.fixture(scope="module")
def quantized(source: Path, text_file: Path) -> Quantized:
    def quantize(name: str, *overrides: str) -> Path:
        out = source.with_name(name)
        sinkquant.quantize(
            source, recipe="w8a8-static", output=out, calibration=str(text_file), overrides=[*SMALL, *overrides]
        )
        return out

    return quantize


def error(model: Any, source: Path, prefix: tuple[int, ...]) -> float:
    """Of the logits, relative to those of the float model behind the prefix in context."""
    batch = Batch({"input_ids": ids(4, 60)})
    expected = CAUSAL_LM.alone(AutoModelForCausalLM.from_pretrained(source).eval(), batch, prefix)
    return float((CAUSAL_LM.alone(model, batch) - expected).norm() / expected.norm())


@pytest.mark.parametrize("source", PLANTED, indirect=True)
def test_a_planted_sink_is_absorbed(source: Path, quantized: Quantized, text_file: Path) -> None:
    found = sinkquant.detect(source, calibration=str(text_file))
    assert found.verdict == (Verdict.POSITIONAL,)
    assert found.prefix.absorbed and len(found.prefix.ids) == 1
    assert found.prefix.trials[0].sinks_left > 0

    out, plain = quantized("out", *PLAIN), quantized("plain", "sinks.prefix=none", "sinks.exclude=false", *PLAIN)
    model = sinkquant.load(out, dtype=torch.float32)
    assert as_proved(model, out)
    shown = sinkquant.inspect(out)
    assert shown.prefix == found.prefix.ids
    assert {one.name: one.loads for one in shown.runtimes}["vLLM + sinkquant"] is False
    assert error(model, source, shown.prefix) < error(sinkquant.load(plain, dtype=torch.float32), source, ()) / 5

    places = model.config.max_position_embeddings
    assert (places, AutoTokenizer.from_pretrained(out).model_max_length) == (PLACES - 1, PLACES - 1)
    compared = sinkquant.evaluate(out, baseline=source, text=text_file, max_tokens=400)
    assert compared.window == places


@pytest.mark.parametrize("source", PLANTED, indirect=True)
def test_a_text_has_room_behind_a_prefix_that_is_given(source: Path, quantized: Quantized) -> None:
    out = quantized("given", "sinks.prefix=[1,2,3,4,5,6]", "sinks.exclude=false", "calibration.length=96")
    assert sinkquant.load(out).config.max_position_embeddings == PLACES - 6
