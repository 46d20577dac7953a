"""Which tokens reach an expert during a walk, and what is done for those that few reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sinkquant.models.experts import everyone, parted
from sinkquant.walk.walk import BlockRun, look_in

FEW = 1.0  # tokens an input channel: a Hessian of fewer has no full rank


@contextmanager
def seen_by_enough(run: BlockRun, name: str) -> Iterator[None]:
    """A context in which module `name`, if it is in an expert that fewer tokens choose than it has input channels,
    is handed every token of the layer; what other modules get stays."""
    found = _expert_of(run, name)
    if found is None:
        yield
        return
    experts, number = found
    width = run.inside(name).in_features
    if int(tokens_of(run, experts)[number]) >= FEW * width:  # type: ignore[operator]
        yield
        return
    with everyone(run.module, frozenset({number})):
        yield


def tokens_of(run: BlockRun, experts: str) -> Tensor:
    """How many tokens choose each expert of module `experts`, (E,) int64; found once a block."""
    if experts not in run.routed:
        counts = torch.zeros(len(parted(run.inside(experts))) + 1, dtype=torch.int64)

        def count(_: int, args: tuple[Tensor, ...]) -> None:
            chosen = args[1].flatten().clamp_max(len(counts) - 1).cpu()
            counts.add_(torch.bincount(chosen, minlength=len(counts)))

        look_in(run, experts, count)
        run.routed[experts] = counts[:-1]
    return run.routed[experts]


def _expert_of(run: BlockRun, name: str) -> tuple[str, int] | None:
    """The module of experts and the number of the one that `name` is in."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:end])
        if not path.startswith(run.roles.name + "."):
            return None
        if parted(run.inside(path)):
            return path, int(parts[end])
    return None
