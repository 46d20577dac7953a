"""The attention stage: what is quantized, what stays, what the prefix adds."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from sinkquant.models.attention import AttentionCall, attention_forward, attention_weights
from sinkquant.quantization.kv import KVGrid
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.kv import KVStage, Versions, install, keep_recent, prepend


def call(length: int = 9, past: int = 0, mask: torch.Tensor | None = None) -> AttentionCall:
    return AttentionCall(
        torch.randn(2, 4, length, 8), torch.randn(2, 2, past + length, 8), torch.randn(2, 2, past + length, 8), mask
    )


def versions(exact: torch.Tensor, recent: int, new: int) -> Versions:
    """What a cache shows that has stored no more than it must."""
    length = exact.shape[2]
    far, near = max(length - recent, 0), min(recent - 1 + new, length)
    return Versions(KVGrid(2).fake(exact)[:, :, :far], exact[:, :, length - near :], length)


@pytest.mark.parametrize("recent", [1, 3, 100])
@pytest.mark.parametrize(("new", "past"), [(9, 0), (1, 8), (4, 5)])
def test_a_cache_that_keeps_little_gives_what_all_versions_give(recent: int, new: int, past: int) -> None:
    mask = torch.ones(new, past + new, dtype=torch.bool).tril(past)[None, None]
    exact = call(length=new, past=past, mask=mask)
    key, value = (Versions(KVGrid(2).fake(x), x, past + new) for x in (exact.key, exact.value))
    expected = keep_recent(exact, key, value, recent)
    made = keep_recent(exact, versions(exact.key, recent, new), versions(exact.value, recent, new), recent)
    outputs = [attention_weights(x) @ x.value.repeat_interleave(2, dim=1) for x in (made, expected)]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("recent", [1, 3, 100])
def test_every_query_sees_its_newest_tokens_exactly(recent: int) -> None:
    exact = call()
    key, value = KVGrid(2).fake(exact.key), KVGrid(2).fake(exact.value)
    made = keep_recent(exact, Versions(key, exact.key, 9), Versions(value, exact.value, 9), recent)
    weights = attention_weights(made)  # (B, H, T, 2S)
    values = made.value.repeat_interleave(2, dim=1)
    for i in range(9):
        near = torch.arange(9) > i - recent
        mixed_key = torch.where(near[:, None], exact.key, key).repeat_interleave(2, dim=1)[:, :, : i + 1]
        mixed_value = torch.where(near[:, None], exact.value, value).repeat_interleave(2, dim=1)[:, :, : i + 1]
        expected = scaled_dot_product_attention(exact.query[:, :, i : i + 1], mixed_key, mixed_value)
        torch.testing.assert_close((weights @ values)[:, :, i : i + 1], expected, atol=1e-5, rtol=1e-5)


def test_recent_tokens_count_from_the_query_in_a_preallocated_cache() -> None:
    visible = torch.zeros(1, 1, 2, 12, dtype=torch.bool)
    visible[..., 0, :6], visible[..., 1, :7] = True, True
    exact = call(length=2, past=10, mask=visible)
    key, value = Versions(exact.key * 0, exact.key, 12), Versions(exact.value * 0, exact.value, 12)
    made = keep_recent(exact, key, value, recent=2)
    assert made.mask is not None
    near = made.mask[0, 0, :, 12:]
    assert near[0].nonzero().flatten().tolist() == [4, 5]
    assert near[1].nonzero().flatten().tolist() == [5, 6]
    assert made.mask[0, 0, 1, :12].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def test_the_prefix_is_neither_quantized_nor_masked() -> None:
    module = nn.Module()
    module.sink_key, module.sink_value = torch.randn(2, 3, 8) * 50, torch.randn(2, 3, 8)
    exact = call()
    made = KVStage(KVScheme(4))(module, exact)
    assert torch.equal(made.key[0, :, :3], module.sink_key)
    assert torch.equal(made.key[:, :, 3:], KVGrid(4).fake(exact.key))
    assert made.mask is None and made.prefix == 3
    mask = made.explicit().mask
    assert mask is not None
    assert mask[..., :3].all() and torch.equal(mask[0, 0, :, 3:], torch.ones(9, 9, dtype=torch.bool).tril())
    additive = torch.zeros(1, 1, 9, 9).masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -1e30)
    added = prepend(AttentionCall(exact.query, exact.key, exact.value, additive), module.sink_key, module.sink_value)
    assert added.mask is not None
    assert added.mask[..., :3].eq(0).all()


@pytest.mark.parametrize("past", [0, 4])
def test_a_prefix_without_a_mask_computes_as_with_one(past: int) -> None:
    """Keys behind those of the text, as a pre-allocated cache has them, are not seen either way."""
    module = nn.Module()
    key, value = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    install(module, KVScheme(), key, value)
    exact = call(past=past)
    masked = exact.explicit()
    bare, _ = attention_forward(module, exact.query, exact.key, exact.value, None)
    seen, _ = attention_forward(module, masked.query, masked.key, masked.value, masked.mask)
    assert torch.allclose(bare, seen, atol=1e-6)
    weights = attention_weights(prepend(exact, key, value))
    assert torch.allclose(
        bare.transpose(1, 2), weights @ prepend(masked, key, value).value.repeat_interleave(2, 1), atol=1e-5
    )


def test_a_single_query_sees_the_prefix_without_a_mask() -> None:
    """As it does with a mask that hides nothing."""
    key, value = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    exact = call(length=1, past=5)
    bare, masked = prepend(exact, key, value), prepend(exact.explicit(), key, value)
    assert bare.mask is None and masked.mask is not None and masked.mask.all()
    assert torch.equal(bare.key, masked.key) and torch.equal(bare.value, masked.value)
