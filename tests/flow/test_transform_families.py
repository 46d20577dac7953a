"""What a plan does to families that are built differently keeps their function, whatever the recipe asks for."""

from __future__ import annotations

import pytest
import torch

from sinkquant.flow.plan import make_plan, weight_shapes
from sinkquant.flow.transform import no_prefix, transform
from sinkquant.models.trace import trace_roles
from sinkquant.recipes import load_recipe
from tests.families import FAMILIES, make
from tests.sessions import text_session

# Rotary positions or a table of them, and an attention in every block.
PREFIXED = {"Llama", "Qwen2", "Mixtral", "Qwen2Moe", "GPTBigCode", "GPTNeoX", "BertLMHead"}


@pytest.mark.parametrize("recipe", ["w8a8-static", "w4a8kv4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_transformations_are_exact(family: str, recipe: str) -> None:
    model = make(family)
    roles, ids = trace_roles(model), torch.randint(3, 97, (2, 48), generator=torch.Generator().manual_seed(0))
    session = text_session(model, ids, roles)
    plan = make_plan(load_recipe(recipe, ()), (1,), roles, weight_shapes(model, roles), no_prefix(session, (1,)))
    assert transform(session, plan) <= 1e-4
    assert plan.prefix == ((1,) if family in PREFIXED else ())
