"""Families that see and write, each built differently: what is found in them, exact transformations, rounding."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from sinkquant.errors import SinkquantError
from sinkquant.evaluation.difference import difference
from sinkquant.flow.blocks import quantize_blocks
from sinkquant.flow.decide import decide
from sinkquant.flow.session import Session
from sinkquant.flow.transform import no_prefix, transform
from sinkquant.inputs.batches import Batches
from sinkquant.models.trace import trace_roles
from sinkquant.recipes import load_recipe
from sinkquant.tasks.image_text import IMAGE_TEXT
from sinkquant.tasks.task import Data
from tests.tasks.sighted import make


@dataclass(frozen=True)
class Kind:
    """What is true of a family: the number of its stacks, linears of its connector, and why text has no prefix."""

    stacks: int = 2
    connector: int = 2
    no_prefix: str | None = None


KEEPS_NOTHING: Any = SimpleNamespace(finished=lambda: 0, save=lambda *_: None)
SEE = "tokens see those behind them"
KINDS = {
    "llava": Kind(),
    "qwen2_5_vl": Kind(),  # patches in one list, three kinds of positions
    "smolvlm": Kind(connector=1),  # several images a sample
    "internvl": Kind(),
    "gemma3": Kind(connector=0, no_prefix=SEE),  # image tokens see each other; the connector is a bare matrix
    "mllama": Kind(stacks=3, connector=0, no_prefix=SEE),  # tiles, cross attention
}
RECIPES = {"w8a8-static": 0.1, "w8a8-npu": 0.1, "w4a8kv4": 0.5}


def session_of(kind: str) -> Session:
    model: Any = make(kind)
    batch = IMAGE_TEXT.probe(model, 4)
    data = Data(*[Batches((batch,), "test")] * 2)
    return Session(model, trace_roles(model, IMAGE_TEXT.probe(model)), IMAGE_TEXT, None, "test", None, data, {})


@pytest.mark.parametrize("kind", KINDS)
def test_parts(kind: str) -> None:
    session, true = session_of(kind), KINDS[kind]
    roles = session.roles
    assert len(roles.stacks) == true.stacks and roles.towers == roles.stacks[:-1]
    assert sum(len(site.linears) for bridge in roles.bridges for site in bridge.sites) == true.connector
    why = no_prefix(session, (1, 5))
    assert why is None if true.no_prefix is None else why is not None and why.startswith(true.no_prefix)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("kind", KINDS)
def test_rounding(kind: str, recipe: str) -> None:
    session = session_of(kind)
    overrides = ["sinks.prefix=[1, 5]", "tuning.epochs=0", "weights.group_size=null"]
    session, plan = decide(session, load_recipe(recipe, overrides), None, None)
    assert bool(plan.prefix) == (KINDS[kind].no_prefix is None)
    few = session.data.held_out[0][:2]
    expected = IMAGE_TEXT.alone(session.model, few, plan.prefix)
    assert transform(session, plan) < 1e-4
    quantize_blocks(session, plan, KEEPS_NOTHING, lambda *_: None)
    got = IMAGE_TEXT.answer(session.model, few)
    assert 1e-5 < difference(got, expected) < RECIPES[recipe]


def test_text_that_images_are_added_to_between_blocks_is_refused() -> None:
    with pytest.raises(SinkquantError, match="between its blocks of text something else"):
        session_of("qwen3_vl")
