"""Models in which much is zero stay exact; what is not exact is named, and the remedy that is named works."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from sinkquant.errors import SinkquantError
from sinkquant.flow.exactness import is_exact
from sinkquant.flow.plan import make_plan, weight_shapes
from sinkquant.flow.transform import transform
from sinkquant.models.roles import Roles
from sinkquant.models.trace import trace_roles
from sinkquant.recipes import list_recipes, load_recipe
from tests.sessions import text_session

IDS = torch.randint(3, 190, (1, 96), generator=torch.Generator().manual_seed(0))
EVERYTHING = ("transforms.smooth=true", "transforms.inputs=true", "kv_cache.balance=true", "kv_cache.bits=4")


def run(model: torch.nn.Module, roles: Roles, recipe: str, overrides: tuple[str, ...] = ()) -> float:
    plan = make_plan(load_recipe(recipe, overrides), (), roles, weight_shapes(model, roles), None)
    return transform(text_session(model, IDS, roles), plan)


def zeroed(*names: str, rows: slice = slice(None)) -> Callable[[torch.nn.Module], None]:
    """Makes rows of the weights with these names zero, as pruning and added blocks do."""

    def change(model: torch.nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name.endswith(tuple(f"{part}.weight" for part in names)):
                parameter.data[rows] = 0

    return change


ZEROS = {
    "added blocks": zeroed("1.self_attn.o_proj", "1.mlp.down_proj"),
    "a key head": zeroed("0.self_attn.k_proj", rows=slice(12)),
    "a value head": zeroed("0.self_attn.v_proj", rows=slice(12)),
    "a key and value head": zeroed("k_proj", "v_proj", rows=slice(12)),
    "all values": zeroed("2.self_attn.v_proj"),
    "all queries": zeroed("q_proj"),
    "a gate": zeroed("1.mlp.gate_proj"),
    "one neuron": zeroed("mlp.up_proj", rows=slice(1)),
    "a norm": zeroed("1.input_layernorm"),
    "channels of a norm": zeroed("post_attention_layernorm", rows=slice(7)),
    "a whole block": zeroed(
        *(f"1.self_attn.{p}_proj" for p in "qkvo"), *(f"1.mlp.{p}_proj" for p in ("gate", "up", "down"))
    ),
}


@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [*((recipe.name, ()) for recipe in list_recipes()), ("w8a8-static", EVERYTHING)],
    ids=lambda value: value if isinstance(value, str) else "+" * len(value),
)
def test_weights_that_are_zero_keep_the_model_exact(
    tiny_llama: LlamaForCausalLM, zeros: str, recipe: str, overrides: tuple[str, ...]
) -> None:
    ZEROS[zeros](tiny_llama)
    assert run(tiny_llama, trace_roles(tiny_llama), recipe, overrides) < 1e-5


def wrong_blocks(**changes: Callable[[object], object]) -> Callable[[Roles], Roles]:
    """Roles that say something untrue of every block."""
    return lambda roles: roles.each_block(lambda b: replace(b, **{k: make(b) for k, make in changes.items()}))


WRONG = {
    # as if each norm reached only the first of its readers
    "fold": (wrong_blocks(reads=lambda b: tuple((norm, names[:1]) for norm, names in b.reads)), "fold_norms"),
    "r1": (wrong_blocks(writers=lambda b: b.writers[:1]), "r1"),
    "r2": (
        wrong_blocks(attentions=lambda b: (replace(b.attention, value=b.attention.value.replace("v_proj", "k_proj")),)),
        "r2",
    ),
    "smooth": (wrong_blocks(up=lambda b: b.up.replace("up_proj", "gate_proj")), "smooth"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_exact_is_named_with_a_remedy_that_works(tiny_llama: LlamaForCausalLM, case: str) -> None:
    untrue, key = WRONG[case]
    state = {name: value.clone() for name, value in tiny_llama.state_dict().items()}
    wanted = {part: part in (key, "r4", "fold_norms") for part in ("fold_norms", "r1", "r2", "r4", "smooth")}
    extra = tuple(f"transforms.{part}={str(on).lower()}" for part, on in wanted.items())
    with torch.no_grad():  # norms with scales of their own, so that forgetting one shows
        for name, value in state.items():
            if "norm" in name:
                value += 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    tiny_llama.load_state_dict(state)
    original = LlamaForCausalLM(tiny_llama.config).eval().requires_grad_(False)
    original.load_state_dict(state)
    roles = untrue(trace_roles(tiny_llama))
    with pytest.raises(SinkquantError, match=rf"transforms\.{key}.* changes them by .*leave it out with") as caught:
        run(tiny_llama, roles, "w8a8-static", extra)
    remedy = tuple(re.findall(r"--set (\S+=false)", str(caught.value)))
    assert f"transforms.{key}=false" in remedy
    assert run(original, roles, "w8a8-static", (*extra, *remedy)) < 1e-5


def test_only_a_model_that_amplifies_its_rounding_may_be_further_off(tiny_llama: LlamaForCausalLM) -> None:
    roles = trace_roles(tiny_llama)
    with torch.no_grad():
        plain = tiny_llama(input_ids=IDS).logits

        def itself() -> torch.Tensor:
            return tiny_llama(input_ids=IDS).logits

        def amplified() -> torch.Tensor:  # what is left of two large numbers
            return tiny_llama(input_ids=IDS).logits - 0.999 * plain

        assert is_exact(9e-5, tiny_llama, roles, plain, itself)
        assert not is_exact(5e-4, tiny_llama, roles, plain, itself)
        assert is_exact(5e-4, tiny_llama, roles, amplified(), amplified)
        assert not is_exact(2e-3, tiny_llama, roles, amplified(), amplified)
        assert torch.equal(tiny_llama(input_ids=IDS).logits, plain)  # nothing is left behind
