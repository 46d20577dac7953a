"""What one static scale would cost the input of a linear: a tensor can lose everything without any sink."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

HALF_STEP = 0.5 / 127  # of the largest magnitude: what an 8-bit grid rounds to zero


@dataclass(frozen=True)
class RangeWaste:
    """Of the rows of one input under a scale that covers the largest magnitude: `underflow`, the share (0…1) of rows
    that an 8-bit grid rounds to zero altogether; `dispersion`, the largest row maximum over the median one; `bits`, its
    logarithm to the base 2: what the median row loses."""

    module: str
    underflow: float
    dispersion: float

    @property
    def bits(self) -> float:
        return math.log2(max(1.0, self.dispersion))


def range_waste(module: str, peaks: Tensor) -> RangeWaste:
    """`peaks` (n,): the largest magnitude of every real row."""
    largest = float(peaks.max()) if len(peaks) else 0.0
    if largest == 0.0:
        return RangeWaste(module, 0.0, 1.0)
    underflow = float((peaks < HALF_STEP * largest).float().mean())
    return RangeWaste(module, underflow, largest / max(float(peaks.median()), 1e-12))


def row_peaks(rows: Tensor, real: Tensor) -> Tensor:
    """The largest magnitude of every real row of (n, width), (m,) float32."""
    low, high = rows.aminmax(dim=-1)  # without a copy of the rows
    return torch.maximum(high, -low)[real].float()
