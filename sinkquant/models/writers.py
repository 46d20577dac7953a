"""Find the linears that write to the stream of one traced block, and what stands between them and the stream."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from sinkquant.models.experts import parted_experts
from sinkquant.models.explain_attention import is_same
from sinkquant.models.record import Event, collinear
from sinkquant.models.roles import Norm, NormKind, Writer

Norms = dict[str, tuple[Event, NormKind]]
ON_THE_STREAM = "norms stand on the stream itself, which keeps its basis"


def find_writers(
    block: str, points: list[Tensor], linears: list[Event], norms: Norms, events: list[Event], unexplained: list[str]
) -> list[Writer]:
    """Writers in order, from the stream at `points` along the block. A norm whose input is a linear's output does not
    read the stream: it is a sandwich norm. One whose output goes on as the stream stands on it (post-norm)."""
    points = [p for p in points[:-1] if not any(is_same(p, li.output) for li in linears)] + points[-1:]
    writers: list[Writer] = []
    for before, after in pairwise(points):
        if before.shape != after.shape:
            unexplained.append("the stream changes its shape")
            continue
        behind = [e.output for e, _ in norms.values() if is_same(e.input, before)]
        if any(is_same(output, after) for output in behind):  # the last norm of a post-norm block
            _say(unexplained, ON_THE_STREAM)
            continue
        found = _between(before, after, linears, norms, events)
        for base in behind if not found else []:
            found = found or _between(base, after, linears, norms, events)
            if found:
                _say(unexplained, ON_THE_STREAM)
        writers.extend(found)
        if not found:
            added = after.double() - before.double()
            module = next((e for e in reversed(events) if collinear(added, e.output)), None)
            what = "an operation that no module owns"
            if module is not None:
                what = f"{module.name.removeprefix(block + '.')} ({type(module.module).__name__})"
            unexplained.append(f"the stream is written by {what}")
    return writers


def _say(unexplained: list[str], note: str) -> None:
    if note not in unexplained:
        unexplained.append(note)


def _between(before: Tensor, after: Tensor, linears: list[Event], norms: Norms, events: list[Event]) -> list[Writer]:
    """The linears that are added to `before` to make `after`; none if it is something else."""
    if before.shape != after.shape:
        return []
    added = after.double() - before.double()
    plain = next((e for e in linears if collinear(added, e.output)), None)
    if plain is not None:
        return [Writer(plain.name)]
    sandwich = next(((e, k) for e, k in norms.values() if collinear(added, e.output)), None)
    source = sandwich and next((e for e in linears if is_same(e.output, sandwich[0].input)), None)
    if sandwich and source:
        return [Writer(source.name, Norm(sandwich[0].name, sandwich[1]))]
    scale = next((e for e in events if collinear(added, e.output) and _by_channel(e)), None)
    source = scale and next((e for e in linears if is_same(e.output, scale.input)), None)
    if scale and source:
        return [Writer(source.name, scale=scale.name)]
    return [Writer(name) for name in _parallel(added, linears) or _mixed(added, linears, events)]


def _mixed(added: Tensor, linears: list[Event], events: list[Event]) -> tuple[str, ...]:
    """Experts: the last linears inside a module that mixes their outputs, token by token, to what was added."""
    mixing = next((e for e in events if parted_experts(e.module) and collinear(added, e.output)), None)
    inside = [] if mixing is None else [e for e in linears if e.name.startswith(f"{mixing.name}.")]
    wide = [e for e in inside if e.output.shape[-1] == added.shape[-1] and e.output.numel() == added.numel()]
    return tuple(e.name for e in wide if not any(is_same(e.output, other.input) for other in inside))


def _by_channel(event: Event) -> bool:
    """Whether a module multiplies each channel by a number, the same for every row."""
    x, y = event.input.double(), event.output.double()
    if x.shape != y.shape:
        return False
    rows, products = x.flatten(0, -2), (x * y).flatten(0, -2)
    factor = products.sum(0) / rows.square().sum(0).clamp_min(1e-30)
    return bool((y - factor * x).norm() <= 1e-4 * y.norm())


def _parallel(added: Tensor, linears: list[Event]) -> tuple[str, ...]:
    """Two linears whose sum is what was added (attention and feed-forward in parallel)."""
    wide = [e for e in linears if e.output.shape == added.shape]
    for i, a in enumerate(wide):
        for b in wide[i + 1 :]:
            if collinear(added, a.output.double() + b.output.double()):
                return a.name, b.name
    return ()
