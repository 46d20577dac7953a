"""Find what joins the stacks of a traced model: linears that make rows of one stack of what another gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sinkquant.models.explain_attention import is_same
from sinkquant.models.record import Event, Trace, is_linear
from sinkquant.models.roles import Bridge, Site, SiteKind
from sinkquant.models.stacks import Chain


def find_bridges(
    trace: Trace, stacks: Mapping[str, Chain], upstream: Mapping[str, Collection[str]], shared: Collection[int]
) -> tuple[Bridge, ...]:
    """The bridges into each of `stacks`; `upstream`: parameters that have a part in a stack's rows, when blocks give
    constants; `shared`: ids of weights that belong to several modules."""
    places = {event.name: place for place, event in reversed(list(enumerate(trace.events)))}
    found = []
    for number, (name, chain) in enumerate(stacks.items()):
        earlier = [places[block] for before in list(stacks)[:number] for block in stacks[before]]
        first = places[next(iter(chain))]
        groups: list[list[Event]] = []
        for event in trace.events[min(earlier, default=first) : first]:
            if not _joins(event, stacks, upstream[name], trace.choosers, shared):
                continue
            home = next((group for group in groups if is_same(group[0].input, event.input)), None)
            if home is None:
                groups.append([event])
            else:
                home.append(event)
        if groups:
            sites = (Site(SiteKind.OTHER, tuple(event.name for event in group)) for group in groups)
            found.append(Bridge(name, tuple(sites)))
    return tuple(found)


def _joins(
    event: Event, stacks: Collection[str], upstream: Collection[str], choosers: Collection[str], shared: Collection[int]
) -> bool:
    inside = event.name.startswith(tuple(f"{stack}." for stack in stacks))
    known = f"{event.name}.weight" in upstream and event.name not in choosers
    return not inside and known and is_linear(event) and id(event.module.weight) not in shared
