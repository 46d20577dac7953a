"""Explain one traced block: who reads the stream, who writes it, what the attention is made of.

What is found here is what the tensors of one pass suggest; `verify.py` tries it out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sinkquant.models.experts import parted
from sinkquant.models.explain_attention import explain_attentions, is_same
from sinkquant.models.norm import norm_kind
from sinkquant.models.record import Event, Trace, is_linear
from sinkquant.models.roles import Attention, Block, Norm, NormKind, Site, SiteKind
from sinkquant.models.stream import Stream
from sinkquant.models.writers import find_writers

FEW = 16  # a linear with a sixteenth of its inputs as outputs gives numbers a head or an expert, no features


@dataclass(frozen=True)
class Place:
    """A block in its model: how it takes the stream, what it takes of other stacks, as tensors of the trace with the
    stack's name, and how many rows there may be."""

    name: str
    stream: Stream
    others: tuple[tuple[Tensor, str], ...]
    rows: frozenset[int]


def explain_block(model: nn.Module, trace: Trace, place: Place, shared: Collection[int]) -> Block:
    """The roles inside a block; `shared` has the ids of weights that belong to more than one module."""
    name, stream = place.name, place.stream
    block, events = trace.of(name), trace.inside(name)
    own = {e.name: e for e in reversed(events) if id(getattr(e.module, "weight", None)) not in shared}
    events = [e for e in events if own.get(e.name) is e]  # of several calls the first
    linears = [e for e in events if is_linear(e)]
    norms = {e.name: (e, kind) for e in events if (kind := norm_kind(e.module)) is not None}
    unexplained: list[str] = []

    taken, given = stream.taken(block.arguments), stream.given(block.result)
    attentions = explain_attentions(
        trace, model, name, linears, [e for e, _ in norms.values()], [tensor for tensor, _ in place.others], unexplained
    )
    points = _stream_points(taken, given, norms)
    writers = find_writers(name, points, linears, norms, events, unexplained)
    outputs = {attention.output for attention in attentions}
    downs = [writer.linear for writer in writers if writer.linear not in outputs]
    experts = [e for e in events if parted(e.module)]
    plain = [name for name in downs if not name.startswith(tuple(f"{e.name}." for e in experts))]
    down = plain[-1] if plain else None
    reading = [e for e in events if is_linear(e) or _routes(e)]
    reads = tuple(
        (Norm(e.name, kind), tuple(reader.name for reader in reading if is_same(reader.input, e.output)))
        for e, kind in norms.values()
        if any(is_same(e.input, point) for point in points[:-1])
    )
    reads = tuple((norm, readers) for norm, readers in reads if readers)
    features: set[str | None] = {*outputs, *(writer.linear for writer in writers)}
    for attention in attentions:
        features |= {attention.query, attention.key, attention.value}
    rounded = [e for e in linears if e.name in features or not _stays_float(e, events, trace.choosers, place.rows)]
    sites = _sites(rounded, attentions, reads, downs, place.others, experts)
    down = down if any(down == e.name for e in rounded) else None
    unexplained.extend(_left_float(model.get_submodule(name), {e.name.removeprefix(name + ".") for e in rounded}))
    return Block(name, attentions, reads, tuple(writers), sites, down, None, tuple(unexplained), stream)


def _routes(event: Event) -> bool:
    """Whether a module that is no linear multiplies its input by a matrix of its own: a router."""
    weight = getattr(event.module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 2 and weight.shape[-1] == event.input.shape[-1]


def _left_float(block: nn.Module, rounded: Collection[str]) -> list[str]:
    """What is said of the block's other matrices: experts, and the rest."""
    experts, others = dict[str, None](), dict[str, None]()
    for path, parameter in block.named_parameters():
        module, _, leaf = path.rpartition(".")
        if sum(size > 1 for size in parameter.shape) < 2 or (module in rounded and leaf == "weight"):
            continue
        convolution = isinstance(block.get_submodule(module), _ConvNd)
        fused = parameter.dim() == 3 and not convolution
        (experts if fused else others)[module or leaf] = None
    notes = [f"{name} holds fused experts, which stay in full precision" for name in experts]
    return notes + ([f"{', '.join(others)} stay in full precision"] if others else [])


def _stays_float(event: Event, events: list[Event], choosers: Collection[str], rows: Collection[int]) -> bool:
    """Routers, gates of one number, decays and steps of recurrences: few outputs, on which much depends.

    Also linears that only some tokens reach (experts in a list), whose inputs a short text may not show.
    """
    seen = event.input[..., 0].numel()
    if event.name in choosers or all(seen % number for number in rows):
        return True
    outputs, inputs = event.output.shape[-1], event.input.shape[-1]
    if outputs * FEW > inputs:
        return False
    return not any(e is not event and is_same(e.input, event.output) for e in events)  # a bottleneck has a reader


def _stream_points(taken: Tensor, given: Tensor, norms: dict[str, tuple[Event, NormKind]]) -> list[Tensor]:
    """The stream at the block's input, at every norm that reads it further on, and at the output."""
    made = [e.output for e, _ in norms.values()]
    points = [taken]
    for event, _ in norms.values():
        x = event.input
        fits = x.numel() == taken.numel() and x.shape[-1] == taken.shape[-1]  # some blocks flatten rows
        if fits and not any(is_same(x, p) for p in [*points, *made]):
            points.append(x.reshape(taken.shape))
    return [*points, given]


def _sites(
    linears: list[Event],
    attentions: tuple[Attention, ...],
    reads: tuple[tuple[Norm, tuple[str, ...]], ...],
    downs: Collection[str],
    others: tuple[tuple[Tensor, str], ...],
    experts: list[Event],
) -> tuple[Site, ...]:
    """Group the linears by their input tensor, in order of execution."""
    groups: list[list[Event]] = []
    for event in linears:
        home = next((g for g in groups if is_same(g[0].input, event.input)), None)
        if home is None:
            groups.append([event])
        else:
            home.append(event)

    def kind(names: tuple[str, ...]) -> SiteKind:
        if any(attention.value in names or attention.query in names for attention in attentions):
            return SiteKind.ATTENTION_INPUT
        if any(attention.output in names for attention in attentions):
            return SiteKind.ATTENTION_OUTPUT
        if set(names) & set(downs):
            return SiteKind.DOWN_INPUT
        return SiteKind.MLP_INPUT if any(set(names) & set(r) for _, r in reads) else SiteKind.OTHER

    sites = []
    for group in groups:
        names = tuple(event.name for event in group)
        source = next((stack for tensor, stack in others if is_same(tensor, group[0].input)), None)
        inside = next((e.name for e in experts if is_same(e.input, group[0].input)), None)
        sites.append(Site(kind(names), names, source, inside))
    return tuple(sites)
