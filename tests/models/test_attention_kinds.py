"""Our attention function against its formula in float64: causal or not, over other keys, with all that goes into it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sinkquant.models.attention import AttentionCall, attention_forward, attention_weights
from sinkquant.quantization.kv import KVGrid
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.kv import KVStage

T = 5
KEYS = {"as many keys": T, "more keys": 9, "fewer keys": 3}
MASKS = ("none", "boolean", "additive")
EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with weights": {"output_attentions": True},
    "softcap": {"softcap": 1.5},
    "sink logits": {"s_aux": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    "bias": {"position_bias": True},
    "bias and weights": {"position_bias": True, "output_attentions": True},
}


def inputs(keys: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, T, 8), (2, 2, keys, 8), (2, 2, keys, 6)
    query, key, value = (torch.randn(*shape, generator=generator) for shape in shapes)
    return query, key, value


def mask_of(kind: str, keys: int) -> Tensor | None:
    if kind == "none":
        return None
    visible = torch.rand(2, 1, T, keys, generator=torch.Generator().manual_seed(1)) > 0.4
    visible[..., 0] = True
    return visible if kind == "boolean" else torch.where(visible, 0.0, torch.finfo(torch.float32).min)


def reference(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, bias: Tensor | None, extra: Any
) -> tuple[Tensor, Tensor]:
    """Outputs (B, T, H, dv) and weights (B, H, T, S), float64, by the formula."""
    q, k, v = (x.double().repeat_interleave(4 // x.shape[1], dim=1) for x in (query, key, value))
    logits = q @ k.mT * 0.3
    if "softcap" in extra:
        logits = extra["softcap"] * torch.tanh(logits / extra["softcap"])
    if bias is not None:
        logits = logits + bias.double()
    hidden = torch.zeros(T, key.shape[2], dtype=torch.bool)
    if mask is None:
        hidden = hidden | (torch.ones_like(hidden).triu(1) if causal else False)
    else:
        hidden = ~mask if mask.dtype == torch.bool else mask < -1
    weights = logits.masked_fill(hidden, -torch.inf).exp()
    total = weights.sum(-1, keepdim=True)
    if "s_aux" in extra:
        total = total + extra["s_aux"].double().exp()[:, None, None]
    weights = weights / total
    return (weights @ v).transpose(1, 2), weights


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("stated", [True, False], ids=["by the module", "by the call"])
@pytest.mark.parametrize(("causal", "keys"), [(True, "as many keys"), *((False, keys) for keys in KEYS)])
def test_it_computes_the_formula(causal: bool, stated: bool, keys: str, mask: str, extra: str) -> None:
    count, module, given = KEYS[keys], nn.Module(), dict(EXTRAS[extra])
    tensors, hidden = inputs(count), mask_of(mask, count)
    bias = torch.randn(1, 4, T, count, generator=torch.Generator().manual_seed(2)) if "position_bias" in given else None
    if bias is not None:
        given["position_bias"] = bias
    module.is_causal = causal if stated else not causal
    made, weights = attention_forward(
        module, *tensors, hidden, scaling=0.3, is_causal=None if stated else causal, **given
    )
    expected, shares = reference(*tensors, hidden, causal, bias, given)
    torch.testing.assert_close(made.double(), expected, rtol=1e-4, atol=1e-5)
    if "output_attentions" in given:
        assert weights is not None
        torch.testing.assert_close(weights.double(), shares, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("recent", [0, 3])
@pytest.mark.parametrize("keys", KEYS)
def test_keys_of_others_are_all_quantized_and_all_seen(keys: str, recent: int, prefix: int) -> None:
    module = nn.Module()
    if prefix:
        module.sink_key, module.sink_value = torch.randn(2, prefix, 8), torch.randn(2, prefix, 6)
    query, key, value = inputs(KEYS[keys])
    made = KVStage(KVScheme(4, recent=recent))(module, AttentionCall(query, key, value, None, causal=False))
    assert torch.equal(made.key[:, :, prefix:], KVGrid(4).fake(key))
    assert torch.equal(made.value[:, :, prefix:], KVGrid(4).fake(value))
    weights = attention_weights(made)
    assert weights.shape[-1] == KEYS[keys] + prefix
    assert (weights > 0).all()
