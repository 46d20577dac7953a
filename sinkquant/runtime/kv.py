"""The attention stage of an exported model: rotate queries and keys, quantize the cache, put the prefix in front.

The prefix is a constant of the attention: `sink_key` and `sink_value` (kv heads, P, head dim) are buffers of the
attention module, with keys at positions −P … −1. The text keeps its positions, its mask and its cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.models.attention import TAPS, AttentionCall
from sinkquant.models.roles import Attention, AttentionKind
from sinkquant.quantization.kv import KVGrid
from sinkquant.quantization.scheme import KVScheme


@dataclass(frozen=True)
class Versions:
    """Keys or values of `length` tokens: the first of them quantized, the last exact, some possibly as both."""

    quantized: Tensor  # (B, Hkv, Q, d), tokens 0 … Q − 1
    exact: Tensor  # (B, Hkv, E, d), tokens length − E … length − 1
    length: int


@dataclass(frozen=True)
class KVStage:
    """Applies a KVScheme and the module's prefix to one attention call."""

    scheme: KVScheme

    def __call__(self, module: nn.Module, call: AttentionCall) -> AttentionCall:
        """Rotate, quantize (through the call's cache if it has one), prepend."""
        query, key = call.query, call.key
        if self.scheme.rotate:
            query, key = fast_hadamard(query), fast_hadamard(key)
        if self.scheme.balance:
            query, key = by_head(query, module.query_transform), by_head(key, module.key_transform)  # type: ignore[arg-type]
        call = replace(call, query=query, key=key)
        if self.scheme.bits < 16:
            call = self.quantized(call, self.grids(module))
        sink_key = getattr(module, "sink_key", None)
        return call if sink_key is None else prepend(call, sink_key, module.sink_value)  # type: ignore[arg-type]

    def grids(self, module: nn.Module) -> tuple[KVGrid, KVGrid]:
        """The grids of the module's keys and values."""
        offsets = (module.key_offset, module.value_offset) if self.scheme.balance else (None, None)
        key, value = (KVGrid(self.scheme.bits, self.scheme.clip, offset) for offset in offsets)  # type: ignore[arg-type]
        return key, value

    def quantized(self, call: AttentionCall, grids: tuple[KVGrid, KVGrid]) -> AttentionCall:
        """The call with keys and values as they come back from the cache, real or imagined."""
        # Where nothing is behind a query, as in encoders and in cross attention, no key is newer than another.
        recent, new = self.scheme.recent if call.causal else 0, call.query.shape[2]
        if call.cache is not None:
            key, value = call.cache.write(call.key, call.value, grids)
            return keep_recent(replace(call, cache=None), key, value, recent)
        call = call.only_text()
        length = call.key.shape[2]
        far, near = reach(length, new, recent) if not recent or ends_with_text(call) else (length, length)
        key, value = (
            Versions(grid.fake(x[:, :, :far]), x[:, :, length - near :], length)
            for grid, x in zip(grids, (call.key, call.value), strict=True)
        )
        return keep_recent(call, key, value, recent)


def scheme_of(scheme: KVScheme, attention: Attention) -> KVScheme:
    """What an attention gets of a model's scheme.

    Cross attention keeps keys and values of another stack: none is newer than another, and they are rotated where the
    own ones may be balanced. An attention that sees what comes later keeps nothing, so nothing is rounded there.
    """
    if attention.kind is AttentionKind.CROSS:
        return replace(scheme, recent=0, rotate=scheme.rotate or scheme.balance, balance=False)
    return scheme if attention.causal else KVScheme()


def reach(length: int, new: int, recent: int) -> tuple[int, int]:
    """How many tokens the `new` last queries of `length` see quantized (the first ones) and exact (the last ones)."""
    return max(length - recent, 0), min(recent - 1 + new, length) if recent else 0


def ends_with_text(call: AttentionCall) -> bool:
    """Whether the keys end with the newest token; in a pre-allocated cache they go on behind it."""
    mask = call.mask
    if mask is None or mask.shape[-2] == mask.shape[-1]:
        return True
    if torch.compiler.is_compiling():  # it must not depend on data
        return False
    last = mask[..., -1, -1]
    return bool((last if last.dtype == torch.bool else last > torch.finfo(last.dtype).min / 2).any())


def by_head(x: Tensor, transform: Tensor) -> Tensor:
    """x (B, H, S, d) times the matrix (Hkv, d, d) of each head's group."""
    groups = x.unflatten(1, (transform.shape[0], -1))  # (B, Hkv, H / Hkv, S, d)
    return (groups @ transform.to(x.dtype)[:, None]).flatten(1, 2)


def keep_recent(call: AttentionCall, key: Versions, value: Versions, recent: int) -> AttentionCall:
    """The call with `key` and `value`, of which every query sees its `recent` newest tokens as they were.

    Both versions stand side by side and the mask decides which one a query sees, so any kernel can compute it.
    """
    quantized, exact = key.quantized.shape[2], key.exact.shape[2]
    joined = replace(
        call,
        key=torch.cat([key.quantized, key.exact], dim=2),
        value=torch.cat([value.quantized, value.exact], dim=2),
    )
    if quantized + exact == key.length:  # a single query, or nothing that one query sees exactly and another does not
        return joined
    mask = call.explicit().mask
    assert mask is not None
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    index = torch.arange(key.length, device=mask.device)
    newest = torch.where(visible, index, -1).amax(-1, keepdim=True)  # a query's own place among the keys
    near = (index > newest - recent) & (index >= key.length - exact)
    hidden = torch.zeros_like(mask) if mask.dtype == torch.bool else torch.full_like(mask, torch.finfo(mask.dtype).min)
    far_mask, near_mask = torch.where(near, hidden, mask), torch.where(near, mask, hidden)
    return replace(joined, mask=torch.cat([far_mask[..., :quantized], near_mask[..., key.length - exact :]], dim=-1))


def prepend(call: AttentionCall, sink_key: Tensor, sink_value: Tensor) -> AttentionCall:
    """The call with the prefix in front of keys and values, visible to every query."""
    batch, length = call.key.shape[0], sink_key.shape[1]
    mask = call.mask
    if call.implied:
        call = replace(call.only_text(), prefix=length)
    key = sink_key.to(call.key.dtype).expand(batch, -1, -1, -1)  # (B, Hkv, P, d)
    value = sink_value.to(call.value.dtype).expand(batch, -1, -1, -1)
    if mask is not None:
        visible = mask.new_ones if mask.dtype == torch.bool else mask.new_zeros
        mask = torch.cat([visible(*mask.shape[:-1], length), mask], dim=-1)
    return replace(call, key=torch.cat([key, call.key], dim=2), value=torch.cat([value, call.value], dim=2), mask=mask)


BALANCE = ("key_transform", "query_transform", "key_offset", "value_offset")


def balance_shapes(heads: int, key: int, value: int) -> dict[str, tuple[int, int, int]]:
    """Shapes of the buffers that a balanced attention has, for its KV heads and the sizes of keys and values."""
    return dict(zip(BALANCE, [(heads, key, key)] * 2 + [(heads, 1, key), (heads, 1, value)], strict=True))


def prefix_shapes(heads: int, key: int, value: int, length: int) -> dict[str, tuple[int, int, int]]:
    """Shapes of the buffers that a prefix of `length` tokens has."""
    return {"sink_key": (heads, length, key), "sink_value": (heads, length, value)} if length else {}


def install(module: nn.Module, scheme: KVScheme, sink_key: Tensor | None, sink_value: Tensor | None) -> None:
    """Give an attention module its stage and its prefix buffers."""
    setattr(module, TAPS, (KVStage(scheme),))
    if sink_key is not None and sink_value is not None:
        module.register_buffer("sink_key", sink_key)
        module.register_buffer("sink_value", sink_value)
