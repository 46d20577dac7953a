"""Outlier tokens: rows far beyond a static range stay in float."""

from __future__ import annotations

import torch
from torch import Tensor

from sinkquant.quantization.grid import Grid


def routing_limit(scale: Tensor, zero: Tensor | None, grid: Grid, factor: float) -> Tensor:
    """`factor` times the largest magnitude that the grid holds, in the shape of `scale`; a row that exceeds it anywhere
    is routed."""
    reach = torch.full_like(scale, grid.high) if zero is None else torch.maximum(grid.high - zero, zero - grid.low)
    return factor * reach * scale


def outlier_rows(x: Tensor, scale: Tensor, zero: Tensor | None, grid: Grid, factor: float) -> Tensor:
    """(…) bool: which rows of `x` (…, width) exceed the limit; `scale` is one (1,), or one a row (…, 1)."""
    return (x.abs().amax(-1, keepdim=True) > routing_limit(scale, zero, grid, factor)).squeeze(-1)
