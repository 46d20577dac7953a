"""Explain one traced block: who reads the stream, who writes it, what the attention is made of."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sinkquant.models.roles import Attention, Block, Norm, NormKind, Site, SiteKind, Writer

if TYPE_CHECKING:
    from sinkquant.models.trace import Event, Trace


def norm_kind(module: nn.Module) -> NormKind | None:
    """The style of a norm, found by experiment on random input; None if the module is no norm over the last axis."""
    weight = getattr(module, "weight", None)
    if next(module.children(), None) is not None or not isinstance(weight, Tensor) or weight.dim() != 1:
        return None
    x = torch.randn(3, weight.numel(), generator=torch.Generator().manual_seed(0)).to(weight)
    try:
        with torch.no_grad():
            y, gamma, x = module(x).double(), weight.double(), x.double()
    except TypeError:  # a norm that takes a gate as well, as linear attentions have
        return None
    unit = x / x.pow(2).mean(-1, keepdim=True).sqrt()
    centred = x - x.mean(-1, keepdim=True)
    layer = centred / centred.pow(2).mean(-1, keepdim=True).sqrt() * gamma
    bias = getattr(module, "bias", None)
    layer = layer + bias.double() if isinstance(bias, Tensor) else layer
    styles = {NormKind.RMS: unit * gamma, NormKind.RMS_OFFSET: unit * (1 + gamma), NormKind.LAYER: layer}
    tolerance = 2e-2 if weight.dtype in (torch.bfloat16, torch.float16) else 1e-3
    for kind, expected in styles.items():
        if (y - expected).norm() <= tolerance * expected.norm() and y.norm() > 0:
            return kind
    return None


def explain_block(model: nn.Module, trace: Trace, name: str) -> Block:
    """The roles inside block `name`."""
    block, events = trace.of(name), trace.inside(name)
    linears = [e for e in events if isinstance(e.module, nn.Linear)]
    norms = {e.name: (e, kind) for e in events if (kind := norm_kind(e.module)) is not None}
    unexplained: list[str] = []

    attention = _attention(model, trace, name, linears, norms, unexplained)
    points = _stream_points(block, norms)
    writers = _writers(points, linears, norms, events, unexplained)
    output = attention.output if attention else None
    down = next((w.linear for w in reversed(writers) if w.linear != output), None)
    reads = tuple(
        (Norm(e.name, kind), tuple(li.name for li in linears if _same(li.input, e.output)))
        for e, kind in norms.values()
        if any(_same(e.input, point) for point in points[:-1])
    )
    reads = tuple((norm, readers) for norm, readers in reads if readers)
    for parameter, tensor in model.get_submodule(name).named_parameters():
        if tensor.dim() == 3:
            unexplained.append(f"{parameter} holds fused experts, which stay in full precision")
    sites = _sites(linears, attention, reads, down)
    return Block(name, attention, reads, tuple(writers), sites, down, None, tuple(unexplained))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.numel() == b.numel()


def _storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _stream_points(block: Event, norms: dict[str, tuple[Event, NormKind]]) -> list[Tensor]:
    """The stream at the block's input, at every norm that reads it further on, and at the output."""
    width = block.input.shape[-1]
    made = [e.output for e, _ in norms.values()]
    points = [block.input]
    for event, _ in norms.values():
        x = event.input
        if x.shape[-1] == width and x.shape == block.input.shape and not any(_same(x, p) for p in [*points, *made]):
            points.append(x)
    return [*points, block.output]


def _writers(
    points: list[Tensor],
    linears: list[Event],
    norms: dict[str, tuple[Event, NormKind]],
    events: list[Event],
    unexplained: list[str],
) -> list[Writer]:
    """Writers in order. A norm whose input is a linear's output does not read the stream: it is a sandwich norm."""
    from sinkquant.models.trace import collinear

    own = {e.name: e for e in linears}
    points = [p for p in points[:-1] if not any(_same(p, li.output) for li in linears)] + points[-1:]
    writers = []
    for before, after in pairwise(points):
        added = after.double() - before.double()
        plain = next((e for e in linears if collinear(added, e.output)), None)
        if plain is not None:
            writers.append(Writer(plain.name))
            continue
        sandwich = next(((e, k) for e, k in norms.values() if collinear(added, e.output)), None)
        source = sandwich and next((e for e in linears if _same(e.output, sandwich[0].input)), None)
        if sandwich and source:
            writers.append(Writer(source.name, Norm(sandwich[0].name, sandwich[1])))
            continue
        pair = _parallel(added, linears)
        if pair:
            writers.extend(Writer(name) for name in pair)
            continue
        module = next((e for e in reversed(events) if collinear(added, e.output)), None)
        what = f"{module.name} ({type(module.module).__name__})" if module else "an operation that no module owns"
        unexplained.append(f"the stream is written by {what}")
    assert all(writer.linear in own for writer in writers)
    return writers


def _parallel(added: Tensor, linears: list[Event]) -> tuple[str, str] | None:
    """Two linears whose sum is what was added (attention and feed-forward in parallel)."""
    from sinkquant.models.trace import collinear

    wide = [e for e in linears if e.output.shape == added.shape]
    for i, a in enumerate(wide):
        for b in wide[i + 1 :]:
            if collinear(added, a.output.double() + b.output.double()):
                return a.name, b.name
    return None


def _attention(
    model: nn.Module,
    trace: Trace,
    block: str,
    linears: list[Event],
    norms: dict[str, tuple[Event, NormKind]],
    unexplained: list[str],
) -> Attention | None:
    names = [n for n in trace.calls if n.startswith(block + ".")]
    if len(names) != 1:
        unexplained.append("the block has no attention" if not names else "the block has more than one attention")
        return None
    (name,), call = names, trace.calls[names[0]]
    inner = [e for e in linears if e.name.startswith(name + ".")]
    heads, kv_heads, head_dim = call.query.shape[1], call.key.shape[1], call.key.shape[3]
    value = next((e for e in inner if _storage(e.output, call.value)), None)
    output = inner[-1] if inner and inner[-1].input.numel() == call.query.numel() else None
    rest = [e for e in inner if e is not value and e is not output]
    if value is None or value.output.shape[-1] != kv_heads * call.value.shape[3] or len(rest) != 2:
        unexplained.append("queries, keys and values are not three plain linears")
        return Attention(name, heads, kv_heads, head_dim, None, None, None, output.name if output else None)
    query, key = rest if rest[0].output.shape[-1] == heads * head_dim else reversed(rest)
    if heads == kv_heads and _is_query(model, name, key.name, call):
        query, key = key, query

    def norm_on(linear: Event) -> str | None:
        return next((n for n, (e, _) in norms.items() if _storage(e.input, linear.output)), None)

    module = model.get_submodule(name)
    window = getattr(module, "sliding_window", None)
    return Attention(
        name, heads, kv_heads, head_dim, query.name, key.name, value.name, output.name if output else None,
        norm_on(query), norm_on(key), window if isinstance(window, int) else None,
    )  # fmt: skip


def _is_query(model: nn.Module, attention: str, linear: str, call: AttentionCall) -> bool:  # type: ignore[name-defined] # noqa: F821
    """With as many key heads as query heads, widths do not tell them apart: change one linear and see what moves."""
    from sinkquant.models.trace import recording, run_tokens

    hook = model.get_submodule(linear).register_forward_hook(lambda *args: args[2] * 2)
    try:
        with recording(model) as changed:
            run_tokens(model)
    finally:
        hook.remove()
    moved = (changed.calls[attention].query - call.query).abs().max()
    return bool(moved > (changed.calls[attention].key - call.key).abs().max())


def _sites(
    linears: list[Event],
    attention: Attention | None,
    reads: tuple[tuple[Norm, tuple[str, ...]], ...],
    down: str | None,
) -> tuple[Site, ...]:
    """Group the linears by their input tensor, in order of execution."""
    groups: list[list[Event]] = []
    for event in linears:
        home = next((g for g in groups if _same(g[0].input, event.input)), None)
        if home is None:
            groups.append([event])
        else:
            home.append(event)

    def kind(names: tuple[str, ...]) -> SiteKind:
        if attention and attention.value in names:
            return SiteKind.ATTENTION_INPUT
        if attention and attention.output in names:
            return SiteKind.ATTENTION_OUTPUT
        if down in names:
            return SiteKind.DOWN_INPUT
        return SiteKind.MLP_INPUT if any(set(names) & set(r) for _, r in reads) else SiteKind.OTHER

    named = [tuple(e.name for e in group) for group in groups]
    return tuple(Site(kind(names), names) for names in named)
