"""Find the stacks of a traced model: lists of modules each of which takes the stream from the one before."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from sinkquant.errors import SinkquantError
from sinkquant.models.attention import own_attention
from sinkquant.models.record import Trace, first_tensor, is_linear
from sinkquant.models.stream import Stream, at, carries, link

Chain = dict[str, Stream]  # names of blocks, and how each takes and gives the stream


def find_stacks(model: nn.Module, trace: Trace) -> dict[str, Chain]:
    """Every stack by the name of its list, in order of execution; of lists inside each other the outer one, unless the
    number of places changes from one of its blocks to the next: those are stages, and the lists in them are stacks.

    Raises SinkquantError where there is none, or one whose blocks cannot be run one by one.
    """
    calls = Counter(event.name for event in trace.events)
    found, several, stages = dict[str, Chain](), False, False
    for name, module in model.named_modules():
        inside = any(name.startswith(outer + ".") for outer in found)
        if inside or not isinstance(module, nn.ModuleList | nn.Sequential) or not len(module):
            continue
        names = [f"{name}.{index}" for index in range(len(module))]
        if not all(calls[block] and next(model.get_submodule(block).children(), None) for block in names):
            continue
        links = [link(trace.of(a).result, trace.of(b).arguments) for a, b in pairwise(names)]
        if None in links or not all(any(map(is_linear, trace.inside(block))) for block in names):
            continue
        if any(calls[block] > 1 for block in names):
            several = True
            continue
        steps = [step for step in links if step is not None]
        if not steps and not _alone(trace, names[0]):
            continue
        chain = _chain(trace, names, steps)
        if _places_change(trace, chain):
            stages = True
            continue
        found[name] = _carrying(model, trace, chain)
    if not found:
        raise SinkquantError(
            f"{type(model).__name__}: {_none(several, stages)}; this architecture is not supported yet."
        )
    order = {event.name: place for place, event in enumerate(trace.events)}
    return dict(sorted(found.items(), key=lambda item: order[next(iter(item[1]))]))


def _places_change(trace: Trace, chain: Chain) -> bool:
    """Whether blocks of one list are given streams of unequal shapes."""
    return len({stream.taken(trace.of(name).arguments).shape for name, stream in chain.items()}) > 1


def _none(several: bool, stages: bool) -> str:
    """Why there is no stack."""
    if several:
        return "its blocks run more than once in a pass"
    if stages:
        return "its blocks change the shape of the residual stream from one to the next"
    return "no list of blocks was found that take the residual stream one from the other"


def _alone(trace: Trace, name: str) -> bool:
    """Whether the only module of a list is a block: what it gives has the shape of what it takes."""
    event = trace.of(name)
    return event.input.dim() >= 3 and event.input.shape == event.output.shape and event.input.is_floating_point()


def _chain(trace: Trace, names: list[str], steps: list[Stream]) -> Chain:
    """Where every block takes the stream, and gives it; the first and the last do as their neighbours do."""
    if len(names) == 1:
        event = trace.of(names[0])
        args, kwargs = event.arguments
        places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        place = next(place for place, value in places if value is event.input)
        result = event.result
        return {names[0]: Stream(place, (0, len(result)) if isinstance(result, tuple) else None)}
    taken, given = [steps[0], *steps], [*steps, steps[-1]]
    return {n: Stream(t.argument, g.result) for n, t, g in zip(names, taken, given, strict=True)}


def _carrying(model: nn.Module, trace: Trace, chain: Chain) -> Chain:
    """With what goes from block to block beside the stream.

    Raises SinkquantError where that depends on the stream: blocks cannot be given it before they run.
    """
    names = list(chain)
    handed = [carries(trace.of(a).result, trace.of(b).arguments, chain[a]) for a, b in pairwise(names)]
    if not any(handed):
        return chain
    same = all(step == handed[0] for step in handed)
    unchanged = same and all(
        trace.of(name).result[index] is at(trace.of(name).arguments, place)
        for name in names[1:]
        for index, place in handed[0]
    )
    if not unchanged or not _free(model, trace, names[0], chain[names[0]], [index for index, _ in handed[0]]):
        raise SinkquantError(
            f"{type(model).__name__}: its blocks hand on more than the residual stream, which is not supported yet."
        )
    return {name: replace(stream, carries=handed[0]) for name, stream in chain.items()}


def _free(model: nn.Module, trace: Trace, name: str, stream: Stream, outputs: list[int]) -> bool:
    """Whether `outputs` of a block do not depend on the stream."""
    event = trace.of(name)
    other = stream.taken(event.arguments).flip(-1) + 1
    args, kwargs = stream.call(event.arguments, other)
    with torch.no_grad(), own_attention(model, trace.own):
        result = model.get_submodule(name)(*args, **kwargs)
    pairs = [(first_tensor(result[index]), first_tensor(event.result[index])) for index in outputs]
    return all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)
