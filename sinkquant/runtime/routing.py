"""Outlier tokens: rows far beyond a static range stay in float, and are counted."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sinkquant.quantization.grid import Grid

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


def routing_limit(scale: Tensor, zero: Tensor | None, grid: Grid, factor: float) -> Tensor:
    """(1,) `factor` times the largest magnitude that the grid holds; a row that exceeds it anywhere is routed."""
    reach = torch.full_like(scale, grid.high) if zero is None else torch.maximum(grid.high - zero, zero - grid.low)
    return factor * reach * scale


def outlier_rows(x: Tensor, scale: Tensor, zero: Tensor | None, grid: Grid, factor: float) -> Tensor:
    """(…) bool: which rows of `x` (…, width) exceed the limit."""
    return x.abs().amax(-1) > routing_limit(scale, zero, grid, factor)


class RoutedRows:
    """Counts, while it is open, the rows that the linears of a model route: `with RoutedRows(model) as rows: …`.

    `share` is their part of all rows (0…1), or None for a model in which no linear routes.
    """

    def __init__(self, model: nn.Module) -> None:
        from sinkquant.runtime.linear import QuantizedLinear

        self.linears = [m for m in model.modules() if isinstance(m, QuantizedLinear) and m.routes]
        self.routed, self.seen = 0, 0
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> RoutedRows:
        self._handles = [linear.register_forward_pre_hook(self._count) for linear in self.linears]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _count(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = linear.routed_rows(linear.prepare_input(inputs[0]))  # type: ignore[operator]
        self.routed += int(rows.sum())
        self.seen += rows.numel()

    @property
    def share(self) -> float | None:
        """Routed rows over all rows."""
        return self.routed / self.seen if self.seen else None
