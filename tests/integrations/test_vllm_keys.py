"""What the vLLM plug-in computes without vLLM: the prefix at other positions, rows of a batch, names, prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedModel

from sinkquant.errors import SinkquantError
from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.integrations.vllm.completion import complete, prefix_of
from sinkquant.integrations.vllm.keys import plain_keys, rotary_frequencies, shift_keys, turns_halves
from sinkquant.integrations.vllm.names import scheme_of
from sinkquant.integrations.vllm.rows import put_prefix, token_positions
from sinkquant.models.attention import own_attention
from sinkquant.models.trace import trace_roles
from sinkquant.quantization.scheme import ActivationScheme, KVScheme, LinearScheme, WeightScheme
from sinkquant.transforms.prefix import prefix_states

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPES = [
    {"rope_type": "default", "rope_theta": 1e4},
    {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    LLAMA3 | {"original_max_position_embeddings": 64},
]


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: str(rope["rope_type"]))
def test_shifted_keys_are_the_keys_of_the_new_positions(rope: dict[str, object]) -> None:
    """Keys that our own code computed at −P … −1, shifted by P, are those of the model at 0 … P−1."""
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=50, rope_parameters=rope, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    check_shift(AutoModelForCausalLM.from_config(config).eval(), (7, 3, 11))


def test_shifted_keys_where_layers_differ() -> None:
    """Gemma-3 has another frequency in its sliding layers."""
    config = Gemma3TextConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=50, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    check_shift(AutoModelForCausalLM.from_config(config).eval(), (7, 3))
    assert not torch.equal(rotary_frequencies(config, 0), rotary_frequencies(config, 1))


def test_shifted_keys_of_a_trained_model(model_folder: Path) -> None:
    check_shift(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval(), (1, 250))


def check_shift(model: PreTrainedModel, ids: tuple[int, ...]) -> None:
    roles = trace_roles(model)
    with own_attention(model):
        stored = prefix_states(model, roles, ids)
    with torch.no_grad():
        cache = model(input_ids=torch.tensor([ids]), use_cache=True).past_key_values
    for layer, (key, value) in enumerate(stored):
        moved = shift_keys(key, rotary_frequencies(model.config, layer).float(), len(ids))
        expected = cache.layers[layer].keys[0]
        torch.testing.assert_close(moved, expected, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(value, cache.layers[layer].values[0], atol=2e-5, rtol=1e-4)
        assert not torch.allclose(key, expected, atol=1e-3)


def test_channels_beyond_the_rotary_part_stay() -> None:
    keys = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shift_keys(keys, torch.tensor([1.0, 0.1]), 5)[..., 4:], keys[..., 4:])


def test_dynamic_rotary_embedding_is_refused() -> None:
    config = LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(SinkquantError, match="dynamic rotary embedding"):
        rotary_frequencies(config, 0)


FAMILIES = {"llama": True, "qwen2": True, "gemma3_text": True, "cohere": False, "nothing": False}


@pytest.mark.parametrize(("family", "halves"), FAMILIES.items())
def test_which_channels_turn_together(family: str, halves: bool) -> None:
    assert turns_halves(family) is halves


def test_keys_leave_the_basis_of_r3() -> None:
    keys = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    back = plain_keys(fast_hadamard(keys), KVScheme(rotate=True), None)
    torch.testing.assert_close(back, keys, atol=1e-5, rtol=0)


def test_scores_with_balanced_keys_stay() -> None:
    """Transformed queries on stored keys give what plain queries give on plain keys."""
    draw = torch.Generator().manual_seed(0)
    queries, stored = torch.randn(2, 5, 8, generator=draw), torch.randn(2, 3, 8, generator=draw)
    transform = torch.randn(2, 8, 8, generator=draw)
    plain = plain_keys(stored, KVScheme(balance=True), transform)
    torch.testing.assert_close(queries @ plain.mT, queries @ transform @ stored.mT, atol=1e-4, rtol=1e-4)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=5), st.integers(0, 3))
def test_positions_of_a_flattened_batch(requests: list[tuple[int, int]], padding: int) -> None:
    """Requests of (new tokens, tokens before them)."""
    new = torch.tensor([n for n, _ in requests])
    past = torch.tensor([p for _, p in requests])
    start = torch.cat([torch.zeros(1, dtype=torch.int64), new.cumsum(0)]).int()
    found = token_positions(int(new.sum()) + padding, start, (new + past).int())
    expected = [p + i for n, p in requests for i in range(n)]
    assert found[: len(expected)].tolist() == expected
    assert (found[len(expected) :] >= sum(requests[-1])).all()  # padding is never taken for a first token


def test_only_first_rows_are_overwritten() -> None:
    rows, prefix = torch.zeros(6, 1, 2), torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]]])
    put = put_prefix(rows, prefix, torch.tensor([0, 1, 2, 1, 7, 0]))
    assert put[:, 0, 0].tolist() == [1, 2, 0, 2, 0, 1]
    assert rows.abs().sum() == 0


def test_prompts_are_completed_once() -> None:
    prefix = (5, 6)
    made = complete({"prompt_token_ids": [9, 5, 6], "prompt": "text"}, prefix)
    assert made == {"prompt_token_ids": [5, 6, 9, 5, 6], "prompt": "text"}
    assert complete(made, prefix) == made
    offsets = complete({"prompt_token_ids": [9], "prompt_token_offsets": [(0, 2)]}, prefix)
    assert offsets["prompt_token_offsets"] == [(0, 0), (0, 0), (0, 2)]
    assert complete({"prompt_token_ids": []}, prefix)["prompt_token_ids"] == [5, 6]


def test_a_model_of_somebody_else_has_no_prefix() -> None:
    config = AutoConfig.for_model("llama")
    assert prefix_of(config) == ()
    config.sinkquant = {"prefix": [1]}
    assert prefix_of(config) == (1,)


def test_schemes_of_fused_layers() -> None:
    eight = LinearScheme(WeightScheme(8), ActivationScheme(8, "static"))
    four = LinearScheme(WeightScheme(4), ActivationScheme(8, "static"))
    linears = {"a.q_proj": eight, "a.k_proj": eight, "b.q_proj": eight, "b.k_proj": four, "lm_head": four}
    fused = {"qk_proj": ["q_proj", "k_proj"]}
    assert scheme_of("a.qk_proj", linears, fused) == eight
    assert scheme_of("lm_head", linears, fused) == four
    assert scheme_of("c.qk_proj", linears, fused) is None
    with pytest.raises(SinkquantError, match=r"parts of b\.qk_proj have different schemes"):
        scheme_of("b.qk_proj", linears, fused)
