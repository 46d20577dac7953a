"""What is kept of the rows that reach a place in the model: sums and samples, never the rows themselves.

A statistic is fed rows (tokens, width) part by part; its size does not depend on how many there are. Sums of several
processes add up (`reduce`), so that each may walk its own share of the text.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, distributed

CHUNK = 4096  # rows of a product in float32 before it goes into a sum in float64


class Statistic(Protocol):
    """`add` rows (tokens, width), `reduce` over the processes that walk with this one, then read the `value`."""

    def add(self, rows: Tensor) -> None: ...

    def reduce(self) -> None: ...

    @property
    def value(self) -> Tensor: ...


class Mean:
    """The mean (width,) float32 of all rows, summed in float64."""

    def __init__(self) -> None:
        self._sum, self._count = torch.zeros(0, dtype=torch.float64), torch.zeros((), dtype=torch.int64)

    def add(self, rows: Tensor) -> None:
        total = rows.sum(0, dtype=torch.float64)
        self._sum = total if self._sum.numel() == 0 else self._sum + total
        self._count += len(rows)

    def reduce(self) -> None:
        add_up(self._sum, self._count)

    @property
    def value(self) -> Tensor:
        return (self._sum / self._count).float()


class Peaks:
    """The largest magnitude (width,) of every channel."""

    def __init__(self) -> None:
        self._largest = torch.zeros(0)

    def add(self, rows: Tensor) -> None:
        largest = rows.abs().amax(0) if len(rows) else rows.new_zeros(rows.shape[1])
        self._largest = largest if self._largest.numel() == 0 else torch.maximum(self._largest, largest)

    def reduce(self) -> None:
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self._largest, distributed.ReduceOp.MAX)

    @property
    def value(self) -> Tensor:
        return self._largest


class Sample:
    """Every `every`-th row of each part: (about size, width)."""

    def __init__(self, every: int) -> None:
        self._every, self._parts = every, list[Tensor]()

    def add(self, rows: Tensor) -> None:
        self._parts.append(rows[:: self._every].clone())

    def reduce(self) -> None:
        if distributed.is_available() and distributed.is_initialized():
            gathered: list[Tensor] = [torch.empty(0)] * distributed.get_world_size()
            distributed.all_gather_object(gathered, self.value)
            self._parts = gathered

    @property
    def value(self) -> Tensor:
        return torch.cat(self._parts)


class Hessian:
    """XᵀX / n (width, width) float64: of the squared error of a linear layer's outputs, halved (arXiv 2210.17323)."""

    def __init__(self) -> None:
        self._sum, self._count = torch.zeros(0, dtype=torch.float64), torch.zeros((), dtype=torch.int64)

    def add(self, rows: Tensor) -> None:
        if self._sum.numel() == 0:
            self._sum = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
        for part in rows.split(CHUNK):
            self._sum += part.T @ part
        self._count += len(rows)

    def reduce(self) -> None:
        add_up(self._sum, self._count)

    @property
    def value(self) -> Tensor:
        return self._sum / self._count


def add_up(*sums: Tensor) -> None:
    """Add every tensor to its like in the other processes, in place; nothing where this process walks alone."""
    if distributed.is_available() and distributed.is_initialized():
        for total in sums:
            distributed.all_reduce(total)
