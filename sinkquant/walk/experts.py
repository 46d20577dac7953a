"""Which tokens reach an expert during a walk, and what is done for those that few reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby

import torch
from torch import Tensor

from sinkquant.models.experts import everyone, parted
from sinkquant.models.roles import Site
from sinkquant.walk.walk import BlockRun, look_in, real_rows

FEW = 1.0  # tokens an input channel: a Hessian of fewer has no full rank


@contextmanager
def seen_by_enough(run: BlockRun, names: Iterable[str]) -> Iterator[None]:
    """A context in which modules, if they are in an expert that fewer tokens choose than they have input channels, are
    handed every token of the layer; what other experts get stays."""
    few: dict[str, set[int]] = {}
    for name in names:
        found = expert_of(run, name)
        if found is None:
            continue
        experts, number = found
        width: int = run.inside(name).in_features  # type: ignore[assignment]
        if int(tokens_of(run, experts)[number]) < FEW * width:
            few.setdefault(experts, set()).add(number)
    with ExitStack() as stack:
        for experts, numbers in few.items():
            stack.enter_context(everyone(run.inside(experts), frozenset(numbers)))
        yield


def side_by_side(run: BlockRun, sites: Sequence[Site]) -> list[list[Site]]:
    """Sites in their order; neighbours in experts of one module, none of which feeds another, are together."""
    return [list(same) for _, same in groupby(sites, key=lambda site: _place(run, site))]


def _place(run: BlockRun, site: Site) -> tuple[str, ...]:
    """Equal for sites that differ by the number of their expert alone."""
    found = {expert_of(run, name) for name in site.linears}
    if len(found) > 1 or None in found:
        return site.linears
    ((experts, number),) = found  # type: ignore[misc]
    return (experts, *(name.removeprefix(f"{experts}.{number}.") for name in site.linears))


def tokens_of(run: BlockRun, experts: str) -> Tensor:
    """How many real tokens choose each expert of module `experts`, (E,) int64; found once a block."""
    if experts not in run.routed:
        counts = torch.zeros(len(parted(run.inside(experts))) + 1, dtype=torch.int64)

        def count(batch: int, args: tuple[Tensor, ...]) -> None:
            real = real_rows(args[1], run.masks[batch])
            chosen = args[1][real].flatten().clamp_max(len(counts) - 1).cpu()
            counts.add_(torch.bincount(chosen, minlength=len(counts)))

        look_in(run, {experts: count})
        run.routed[experts] = counts[:-1]
    return run.routed[experts]


def expert_of(run: BlockRun, name: str) -> tuple[str, int] | None:
    """The module of experts and the number of the one that `name` is in."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:end])
        if not path.startswith(run.roles.name + "."):
            return None
        if parted(run.inside(path)):
            return path, int(parts[end])
    return None
