"""What tracing finds in families that are built and called differently: one row a family, random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sinkquant.errors import SinkquantError
from sinkquant.models.roles import Roles
from sinkquant.models.trace import trace_roles
from sinkquant.walk.walk import Walk, run_block
from tests.families import EXPERTS, FAMILIES, make


@pytest.fixture(scope="module")
def traced() -> dict[str, tuple[Any, Roles]]:
    return {}


def roles_of(traced: dict[str, tuple[Any, Roles]], family: str) -> tuple[Any, Roles]:
    if family not in traced:
        model = make(family)
        traced[family] = model, trace_roles(model)
    return traced[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_roles(family: str, traced: dict[str, tuple[Any, Roles]]) -> None:
    model, roles = roles_of(traced, family)
    expected, blocks = FAMILIES[family], roles.blocks
    assert (roles.attends, roles.stacks[-1].rotates) == (expected.attends, expected.rotates)
    assert {len(block.reads) for block in blocks} == {expected.reads}
    assert sum(block.attention is not None and block.attention.plain for block in blocks) == expected.plain
    assert sum(len(block.cached) for block in blocks) == expected.cached
    assert sum(block.up is not None for block in blocks) == expected.up
    names = {
        f"{blocks[-1].name}.{n}"
        for n, m in model.get_submodule(blocks[-1].name).named_modules()
        if type(m) is nn.Linear
    }
    assert names - set(blocks[-1].linears) == {f"{blocks[-1].name}.{name}" for name in expected.floats}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_walk_gives_what_the_model_gives(family: str, traced: dict[str, tuple[Any, Roles]]) -> None:
    model, roles = roles_of(traced, family)
    ids = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    last = roles.blocks[-1]
    hook = model.get_submodule(last.name).register_forward_hook(lambda *args: seen.append(last.stream.given(args[2])))
    model(input_ids=ids, use_cache=False)
    hook.remove()
    (walked,) = Walk(model, roles, ids).run(run_block)
    torch.testing.assert_close(walked, seen[0], rtol=1e-4, atol=1e-4)


def test_the_number_of_passes_does_not_grow_with_depth() -> None:
    passes = []
    for depth in (2, 6):
        model, count = make("Qwen2", num_hidden_layers=depth), [0]
        model.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        trace_roles(model)
        passes.append(count[0])
    assert passes[0] == passes[1] <= 14  # four of them without blocks


LATENT = dict(q_lora_rank=12, kv_lora_rank=12, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=12, head_dim=None)
INDEXER = dict(index_topk=16, index_n_heads=2, index_head_dim=8, num_key_value_heads=4, n_routed_experts=4)
REFUSED = {
    "Rwkv": ({"attention_hidden_size": 48, "head_dim": None}, "changes its weights while it runs"),
    "ProphetNet": (
        {"num_hidden_layers": None, "num_decoder_layers": 2, "num_decoder_attention_heads": 4, "is_decoder": True},
        "not a vector a token",
    ),
    "GlmMoeDsa": (
        EXPERTS | LATENT | INDEXER | {"n_group": 1, "topk_group": 1},
        "hand on more than the residual stream",
    ),
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_run_block_by_block_is_refused(family: str) -> None:
    sizes, reason = REFUSED[family]
    with pytest.raises(SinkquantError, match=reason):
        trace_roles(make(family, **sizes))


def test_a_model_that_draws_at_random_is_refused() -> None:
    class Drawing(type(make("Llama"))):  # type: ignore[misc]
        def forward(self, **inputs: Any) -> Any:
            """As ever, and noise."""
            made = super().forward(**inputs)
            made.logits = made.logits + torch.randn_like(made.logits)
            return made

    with pytest.raises(SinkquantError, match="draws at random"):
        trace_roles(Drawing(make("Llama").config).eval())


def test_a_model_that_does_not_run_on_token_ids_is_refused() -> None:
    class Picky(type(make("Llama"))):  # type: ignore[misc]
        def forward(self, input_ids: torch.Tensor, use_cache: bool, pixels: torch.Tensor) -> None:
            """Never gets there."""

    torch.manual_seed(0)
    with pytest.raises(SinkquantError, match="does not run on token ids alone"):
        trace_roles(Picky(make("Llama").config))
