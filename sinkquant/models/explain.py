"""Explain one traced block: who reads the stream, who writes it, what the attention is made of.

What is found here is what the tensors of one pass suggest; `verify.py` tries it out.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sinkquant.models.norm import norm_kind
from sinkquant.models.record import TOKENS, Event, Trace, collinear, is_linear
from sinkquant.models.roles import Attention, Block, Norm, NormKind, Site, SiteKind, Writer
from sinkquant.models.stream import Stream

FEW = 16  # a linear with a sixteenth of its inputs as outputs gives numbers a head or an expert, no features


def explain_block(model: nn.Module, trace: Trace, name: str, stream: Stream, shared: Collection[int]) -> Block:
    """The roles inside block `name`; `shared` has the ids of weights that belong to more than one module."""
    block, events = trace.of(name), trace.inside(name)
    own = {e.name: e for e in reversed(events) if id(getattr(e.module, "weight", None)) not in shared}
    events = [e for e in events if own.get(e.name) is e]  # of several calls the first
    linears = [e for e in events if is_linear(e)]
    norms = {e.name: (e, kind) for e in events if (kind := norm_kind(e.module)) is not None}
    unexplained: list[str] = []

    taken, given = stream.taken(block.arguments), stream.given(block.result)
    attention = _attention(trace, model, name, linears, norms, unexplained)
    points = _stream_points(taken, given, norms)
    writers = _writers(name, points, linears, norms, events, unexplained)
    output = attention.output if attention else None
    down = next((w.linear for w in reversed(writers) if w.linear != output), None)
    reads = tuple(
        (Norm(e.name, kind), tuple(li.name for li in linears if _same(li.input, e.output)))
        for e, kind in norms.values()
        if any(_same(e.input, point) for point in points[:-1])
    )
    reads = tuple((norm, readers) for norm, readers in reads if readers)
    features: set[str | None] = {writer.linear for writer in writers}
    if attention:
        features |= {attention.query, attention.key, attention.value, attention.output}
    rounded = [e for e in linears if e.name in features or not _stays_float(e, events, trace.choosers)]
    sites = _sites(rounded, attention, reads, down)
    down = down if any(down == e.name for e in rounded) else None
    unexplained.extend(_left_float(model.get_submodule(name), {e.name.removeprefix(name + ".") for e in rounded}))
    return Block(
        name, (attention,) if attention else (), reads, tuple(writers), sites, down, None, tuple(unexplained), stream
    )


def _left_float(block: nn.Module, rounded: Collection[str]) -> list[str]:
    """What is said of the block's other matrices: experts, and the rest."""
    experts, others = dict[str, None](), dict[str, None]()
    for path, parameter in block.named_parameters():
        module, _, leaf = path.rpartition(".")
        if parameter.dim() < 2 or (module in rounded and leaf == "weight"):
            continue
        convolution = isinstance(block.get_submodule(module), _ConvNd)
        fused = parameter.dim() == 3 and not convolution
        (experts if fused else others)[module or leaf] = None
    notes = [f"{name} holds fused experts, which stay in full precision" for name in experts]
    return notes + ([f"{', '.join(others)} stay in full precision"] if others else [])


def _stays_float(event: Event, events: list[Event], choosers: Collection[str]) -> bool:
    """Routers, gates of one number, decays and steps of recurrences: few outputs, on which much depends.

    Also linears that only some tokens reach (experts in a list), whose inputs a short text may not show.
    """
    if event.name in choosers or event.input[..., 0].numel() % TOKENS:
        return True
    outputs, inputs = event.output.shape[-1], event.input.shape[-1]
    if outputs * FEW > inputs:
        return False
    return not any(e is not event and _same(e.input, event.output) for e in events)  # a bottleneck has a reader


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.numel() == b.numel()


def _storage(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _stream_points(taken: Tensor, given: Tensor, norms: dict[str, tuple[Event, NormKind]]) -> list[Tensor]:
    """The stream at the block's input, at every norm that reads it further on, and at the output."""
    made = [e.output for e, _ in norms.values()]
    points = [taken]
    for event, _ in norms.values():
        x = event.input
        if x.shape == taken.shape and not any(_same(x, p) for p in [*points, *made]):
            points.append(x)
    return [*points, given]


def _writers(
    block: str,
    points: list[Tensor],
    linears: list[Event],
    norms: dict[str, tuple[Event, NormKind]],
    events: list[Event],
    unexplained: list[str],
) -> list[Writer]:
    """Writers in order. A norm whose input is a linear's output does not read the stream: it is a sandwich norm."""
    points = [p for p in points[:-1] if not any(_same(p, li.output) for li in linears)] + points[-1:]
    writers = []
    for before, after in pairwise(points):
        if before.shape != after.shape:
            unexplained.append("the stream changes its shape")
            continue
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
        what = "an operation that no module owns"
        if module is not None:
            what = f"{module.name.removeprefix(block + '.')} ({type(module.module).__name__})"
        unexplained.append(f"the stream is written by {what}")
    return writers


def _parallel(added: Tensor, linears: list[Event]) -> tuple[str, str] | None:
    """Two linears whose sum is what was added (attention and feed-forward in parallel)."""
    wide = [e for e in linears if e.output.shape == added.shape]
    for i, a in enumerate(wide):
        for b in wide[i + 1 :]:
            if collinear(added, a.output.double() + b.output.double()):
                return a.name, b.name
    return None


def _attention(
    trace: Trace,
    model: nn.Module,
    block: str,
    linears: list[Event],
    norms: dict[str, tuple[Event, NormKind]],
    unexplained: list[str],
) -> Attention | None:
    names = [n for n in trace.calls if n.startswith(block + ".")]
    calls = [call for n in names for call in trace.calls[n]]
    if len(calls) != 1:
        if trace.own:
            unexplained.append("no attention" if not calls else "attention is computed more than once")
        return None
    (name,), (call,) = names, calls
    inner = [e for e in linears if e.name.startswith(name + ".")]
    heads, kv_heads, head_dim, value_dim = call.query.shape[1], *call.key.shape[1::2], call.value.shape[3]
    value = next((e for e in inner if _storage(e.output, call.value)), None)
    output = inner[-1] if inner and inner[-1].input.numel() == call.query[..., 0].numel() * value_dim else None
    output = None if output is value else output
    rest = [e for e in inner if e is not value and e is not output]
    module = model.get_submodule(name)
    window = getattr(module, "sliding_window", None)
    window = window if isinstance(window, int) else None
    if value is None or value.output.shape[-1] != kv_heads * value_dim or len(rest) != 2:
        unexplained.append("queries, keys and values are not three plain linears")
        return Attention(
            name, heads, kv_heads, head_dim, None, None, None, output.name if output else None, None, None, window,
            value_dim,
        )  # fmt: skip
    query, key = rest if rest[0].output.shape[-1] == heads * head_dim else reversed(rest)

    def norm_on(linear: Event) -> str | None:
        return next((n for n, (e, _) in norms.items() if _storage(e.input, linear.output)), None)

    return Attention(
        name, heads, kv_heads, head_dim, query.name, key.name, value.name, output.name if output else None,
        norm_on(query), norm_on(key), window, value_dim,
    )  # fmt: skip


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
