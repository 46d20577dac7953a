"""Explain the attentions of one traced block: which linears make queries, keys and values, and which reads the result.

Whether queries and keys of equal width are told apart rightly is tried out in `verify.py`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from sinkquant.models.attention import AttentionCall, attended
from sinkquant.models.record import Event, Trace
from sinkquant.models.roles import Attention, AttentionKind


def explain_attentions(
    trace: Trace,
    model: nn.Module,
    block: str,
    linears: list[Event],
    norms: Collection[Event],
    others: Collection[Tensor],
    unexplained: list[str],
) -> tuple[Attention, ...]:
    """The attentions of block `block` in order of execution; `others`: what it is given of other stacks."""
    calls = {name: made for name, made in trace.calls.items() if name.startswith(block + ".")}
    if not calls:
        if trace.own:
            unexplained.append("no attention")
        return ()
    found = []
    for name, made in calls.items():
        if len(made) > 1:
            unexplained.append("attention is computed more than once")
            return ()
        found.append(_attention(model, name, made[0], linears, norms, others, unexplained))
    if sum(attention.kind is AttentionKind.SELF for attention in found) > 1:
        unexplained.append("attention is computed more than once")
        return ()
    return tuple(found)


def is_same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one."""
    return a.data_ptr() == b.data_ptr() and a.numel() == b.numel()


def _attention(
    model: nn.Module,
    name: str,
    call: AttentionCall,
    linears: list[Event],
    norms: Collection[Event],
    others: Collection[Tensor],
    unexplained: list[str],
) -> Attention:
    inner = [e for e in linears if e.name.startswith(name + ".")]
    module, value = model.get_submodule(name), next((e for e in inner if _gives(e, call.value)), None)
    output = _output(call, [e for e in linears if e is not value], inner)
    rest = [e for e in inner if e is not value and e is not output]
    window = getattr(module, "sliding_window", None)
    cross = any(is_same(e.input, other) for e in inner for other in others)
    found = Attention(
        name,
        heads=call.query.shape[1],
        kv_heads=call.key.shape[1],
        head_dim=call.key.shape[3],
        query=None,
        key=None,
        value=None,
        output=output.name if output else None,
        window=window if isinstance(window, int) else None,
        value_dim=call.value.shape[3],
        kind=AttentionKind.CROSS if cross else AttentionKind.SELF,
        causal=not cross and _is_causal(call),
    )
    if value is None or value.output.shape[-1] != found.kv_heads * found.value_dim or len(rest) != 2:
        unexplained.append("queries, keys and values are not three plain linears")
        return found
    query, key = rest if _is_query(rest[0], found, value, cross) else reversed(rest)

    def norm_on(linear: Event) -> str | None:
        return next((e.name for e in norms if _storage(e.input, linear.output)), None)

    return replace(
        found, query=query.name, key=key.name, value=value.name, query_norm=norm_on(query), key_norm=norm_on(key)
    )


def _is_query(linear: Event, attention: Attention, value: Event, cross: bool) -> bool:
    if cross:  # keys have the input of the values
        return not is_same(linear.input, value.input)
    return linear.output.shape[-1] == attention.heads * attention.head_dim


def _gives(linear: Event, heads: Tensor) -> bool:
    """Whether `heads` (B, H, S, d) are the linear's output, perhaps copied."""
    if _storage(linear.output, heads):
        return True
    flat = heads.transpose(1, 2).flatten()
    return flat.shape == linear.output.flatten().shape and torch.equal(flat, linear.output.flatten())


def _storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _output(call: AttentionCall, linears: list[Event], inner: list[Event]) -> Event | None:
    """The linear that reads what the attention gives, wherever it is; where something stands between them, the last
    one inside of the attention's module that fits."""
    size = call.query[..., 0].numel() * call.value.shape[3]
    fits = [e for e in linears if e.input.numel() == size]
    if call.softcap is None and call.sink_logits is None:
        with torch.no_grad():
            heads = attended(call).flatten().double()
        for event in fits:
            if (event.input.flatten().double() - heads).norm() <= 1e-2 * heads.norm():
                return event
    last = inner[-1] if inner else None
    return last if last in fits else None


def _is_causal(call: AttentionCall) -> bool:
    """Whether no query sees a key behind its own."""
    mask = call.explicit().mask
    assert mask is not None
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    length, keys = call.query.shape[2], visible.shape[-1]
    return not bool(visible.expand(*visible.shape[:-2], length, keys).triu(keys - length + 1).any())
