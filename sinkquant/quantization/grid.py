"""Integer grids: the one definition of rounding that calibration, export and runtime share.

x ≈ (q − z)·s with q an integer of `bits` bits, −2^(bits−1) … 2^(bits−1)−1, rounded half to even. Scales follow
compressed-tensors, so that a portable checkpoint computes the same numbers in stock loaders.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A uniform integer grid. `limit` narrows the codes to ±limit (kernels that overflow on full-range weights)."""

    bits: int
    symmetric: bool = True
    limit: int | None = None

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(2 ** (self.bits - 1)) if self.limit is None else -self.limit

    @property
    def high(self) -> int:
        """Largest code."""
        return 2 ** (self.bits - 1) - 1 if self.limit is None else self.limit


def scale_and_zero(low: Tensor, high: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scale and integer zero point (both float tensors of the shape of `low`) of the grid that spans [low, high] ∪ {0}.

    Symmetric: s = 2·max|x| / (codes), z = 0. Asymmetric: s = (high − low) / (codes), z = round(q_low − low/s).
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    if grid.symmetric:
        scale = symmetric_scale(torch.maximum(-low, high), grid)
        return scale, torch.zeros_like(scale)
    scale = ((high - low) / (grid.high - grid.low)).clamp_min(torch.finfo(low.dtype).tiny)
    return scale, torch.round(grid.low - low / scale).clamp(grid.low, grid.high)


def symmetric_scale(largest: Tensor, grid: Grid) -> Tensor:
    """Scale of the symmetric grid for magnitudes up to `largest` (not negative)."""
    # Halving the steps is doubling the magnitude, which half precision may not hold.
    return (largest / ((grid.high - grid.low) / 2)).clamp_min(torch.finfo(largest.dtype).tiny)


def quantize(x: Tensor, scale: Tensor, zero: Tensor | None, grid: Grid) -> Tensor:
    """Codes q of `x`, as floats; `scale` and `zero` broadcast against `x`."""
    q = x / scale
    if zero is not None:
        q = q + zero
    return round_between(q, grid.low, grid.high)


def round_between(q: Tensor, low: int, high: int) -> Tensor:
    """`q` rounded into low … high: in place, or passing its gradient on where it has one."""
    return round_through(q).clamp(low, high) if q.requires_grad else q.round_().clamp_(low, high)


def round_through(q: Tensor) -> Tensor:
    """`q` rounded, its gradient passed through (straight-through estimator, arXiv 1308.3432); bit for bit q.round()."""
    return q + (q.round() - q).detach()


def dequantize(q: Tensor, scale: Tensor, zero: Tensor | None, *, in_place: bool = False) -> Tensor:
    """Values (q − z)·s in the dtype of `scale`; `in_place`: q is needed no more."""
    values = q.to(scale.dtype)
    if values.requires_grad or scale.requires_grad or (values is q and not in_place):
        return (values if zero is None else values - zero) * scale
    return (values if zero is None else values.sub_(zero)).mul_(scale)  # one copy is enough: weights are large


def fake_quantize(x: Tensor, scale: Tensor, zero: Tensor | None, grid: Grid) -> Tensor:
    """`x` rounded to the grid, in the dtype of `x`."""
    return dequantize(quantize(x, scale, zero, grid), scale, zero, in_place=True).to(x.dtype)
