"""Sinks of a stack by what they have in common: a position, a patch of the image, or a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Stack
from sinkquant.tasks.task import Task

USUAL = 0.5  # of the samples: a place that is a sink in most of them is one by its position
SHOWN = 12  # kinds of sinks of a stack


@dataclass(frozen=True, eq=False)
class Group:
    """`where` (N, R) bool they are, in a `share` of the samples, or of the token's occurrences."""

    word: str
    where: Tensor
    share: float
    token_id: int | None = None
    position: int | None = None
    patch: tuple[int, int] | None = None  # row, column


def groups_of(
    model: Any, task: Task, batch: Batch, stack: Stack, where: Tensor, texts: Callable[[int], str]
) -> list[Group]:
    """The largest groups of the sinks `where` (N, R) of a stack; `texts` gives the word for a token id."""
    grid = task.patches(model, batch, stack, where.shape[1])
    numbers = torch.full_like(where, -1, dtype=torch.int64) if grid is None else grid.numbers.to(where.device)
    found = [] if grid is None else list(_patches(where, numbers, grid.columns))
    rest = where & (numbers < 0)
    found += _rest(model, task, batch, stack, rest, texts)
    return sorted(found, key=lambda group: -int(group.where.sum()))[:SHOWN]


def _patches(where: Tensor, numbers: Tensor, columns: int) -> Iterator[Group]:
    """Each patch apart: what is in an image is at a place of it."""
    for number in numbers[where & (numbers >= 0)].unique().tolist():
        here = numbers == number
        mine, patch = where & here, (number // columns, number % columns)
        places = mine.nonzero()[:, 1]
        position = int(places[0]) if bool((places == places[0]).all()) else None
        yield Group(f"patch {patch}", mine, float(mine.sum() / here.sum()), None, position, patch)


def _rest(
    model: Any, task: Task, batch: Batch, stack: Stack, where: Tensor, texts: Callable[[int], str]
) -> Iterator[Group]:
    tokens, rows = task.tokens(batch, stack), where.shape[1]
    often, rest = where.float().mean(0), where.clone()
    for index in (often >= USUAL).nonzero().flatten().tolist():
        mine = torch.zeros_like(where)
        mine[:, index] = where[:, index]
        rest[:, index] = False
        yield Group(task.place(model, stack, index, rows), mine, float(often[index]), None, index)
    if bool(rest.any()) and tokens is not None:
        for token in tokens[rest].unique().tolist():
            mine = rest & (tokens == token)
            yield Group(texts(token), mine, float(mine.sum() / (tokens == token).sum()), token)
    elif bool(rest.any()):
        yield Group(f"some of {rows} places", rest, float(rest.any(dim=1).float().mean()))
