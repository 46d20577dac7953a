"""The plan: what a recipe means for a model, said before anything changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaForCausalLM

from sinkquant.errors import UsageError
from sinkquant.flow.estimate import estimate
from sinkquant.flow.loadable import refuse_unloadable
from sinkquant.flow.plan import Plan, make_plan, weight_shapes
from sinkquant.models.roles import Cached
from sinkquant.models.trace import trace_roles
from sinkquant.quantization.scheme import KVScheme
from sinkquant.recipes import load_recipe


def plan(model: torch.nn.Module, name: str, *overrides: str, prefix: tuple[int, ...] = ()) -> Plan:
    roles = trace_roles(model)
    return make_plan(load_recipe(name, overrides), prefix, roles, weight_shapes(model, roles), None)


def test_groups_shrink_to_a_power_of_two_that_divides(tiny_llama: LlamaForCausalLM) -> None:
    made = plan(tiny_llama, "w4a16")
    sizes = {scheme.weight.group_size for scheme in made.linears.values() if scheme.weight}
    assert sizes == {16, 32}  # widths 48 and 96
    assert any("groups of 16 instead of 128" in note for note in made.notes)
    with pytest.raises(UsageError, match="does not divide a layer of 48 inputs"):
        plan(tiny_llama, "w4a16", "weights.group_size=100")


def test_sandwich_norms_leave_r1_out() -> None:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=16,
    )  # fmt: skip
    made = plan(Gemma3ForCausalLM(config).eval(), "w8a8-static")
    assert not made.rotations.stream
    assert made.rotations.down
    assert made.rotations.fold_norms
    assert sum("R1 is left out" in note for note in made.notes) == 1
    portable = plan(Gemma3ForCausalLM(config).eval(), "w8a8")
    assert not portable.rotations.fold_norms  # nothing would spread the channels that the norms keep small
    assert any("norms keep their scales" in note for note in portable.notes)


def test_size_counts_every_matrix_once(tiny_llama: LlamaForCausalLM) -> None:
    made = plan(tiny_llama, "w4a4kv4")
    inside = 3 * (48 * 48 + 2 * 48 * 24 + 48 * 48 + 3 * 48 * 96)
    scales = 3 * (48 + 24 + 24 + 48 + 96 + 96 + 48) + 2 * 199
    assert made.bytes == inside // 2 + 2 * 199 * 48 + 4 * scales
    assert {scheme.rotate for scheme in made.linears.values()} == {True}


def test_only_static_inputs_route(tiny_llama: LlamaForCausalLM) -> None:
    for mode, factor in (("static", 2.0), ("dynamic", None)):
        made = plan(tiny_llama, "w8a8-static", f"activations.mode={mode}", "activations.route=2")
        assert {scheme.activation.route for scheme in made.linears.values() if scheme.activation} == {factor}


def test_the_estimate_grows_with_the_text(tiny_llama: LlamaForCausalLM) -> None:
    made = plan(tiny_llama, "w4a4kv4")
    small, large = estimate(made, 1_000), estimate(made, 10_000_000)
    assert large.seconds > 10 * small.seconds
    assert large.memory > small.memory > 600e6
    tuned = estimate(plan(tiny_llama, "w4a4kv4", "tuning.epochs=5", "tuning.tokens=null"), 10_000_000)
    assert tuned.seconds > 1.5 * large.seconds


def test_a_recipe_of_keys_and_values_alone_needs_an_attention_that_can_be_seen(tiny_llama: LlamaForCausalLM) -> None:
    roles = trace_roles(tiny_llama)
    blind = replace(roles, attends=False).each_block(lambda block: replace(block, attentions=()))
    shapes = weight_shapes(tiny_llama, roles)
    with pytest.raises(UsageError, match="nothing would be quantized: the attention of this architecture"):
        make_plan(load_recipe("kv4", ()), (), blind, shapes, None)
    made = make_plan(load_recipe("w4a8kv4", ()), (), blind, shapes, None)
    assert any("keys and values stay in full precision" in note for note in made.notes)
    assert made.kv == KVScheme() and not made.rotations.keys
    kept = Cached("model.layers.1.self_attn", "past_key_values", 1)
    seen = blind.each_block(lambda b: replace(b, cached=(kept,)) if kept.module.startswith(b.name) else b)
    made = make_plan(load_recipe("kv4", ("kv_cache.recent=3",)), (), seen, shapes, None)
    assert made.kv == KVScheme(4, rotate=True)
    for said in ("in 1 of 3 blocks", "where they are cached", "in place of being balanced", "no recent tokens"):
        assert any(said in note for note in made.notes), said
    with pytest.raises(UsageError, match="a class of their own"):
        refuse_unloadable(load_recipe("w8a8", ()), tiny_llama, replace(roles, own_linears=True))


def test_what_is_said_of_many_blocks_is_said_once(tiny_llama: LlamaForCausalLM) -> None:
    roles = trace_roles(tiny_llama)
    said = roles.each_block(lambda block: replace(block, unexplained=("b",) * 2))
    made = make_plan(load_recipe("w8a8", ()), (), said, weight_shapes(tiny_llama, roles), None)
    assert [note for note in made.notes if note.endswith(": b")] == ["every block: b"]
