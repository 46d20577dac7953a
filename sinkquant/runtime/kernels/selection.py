"""Which kernel computes a layer, by the number of rows."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.linear import QuantizedLinear

ROWS = (1, 16, 64, 256)  # numbers of rows that are tried; a number between two is taken for the larger


@dataclass(frozen=True)
class Selection:
    """For each of `ROWS` the fastest way: a kernel that is right, or None for the dequantizing path."""

    kernels: tuple[Kernel | None, ...]

    @classmethod
    def always(cls, kernel: Kernel) -> Selection:
        """That kernel for every number of rows."""
        return cls((kernel,) * len(ROWS))

    def at(self, rows: int) -> Kernel | None:
        """The kernel for a product of that many rows, or None for the dequantizing path (which also takes no rows)."""
        return None if rows == 0 else self.kernels[min(bisect_left(ROWS, rows), len(ROWS) - 1)]

    def used(self) -> set[Kernel]:
        """All kernels that compute at some number of rows."""
        return {kernel for kernel in self.kernels if kernel is not None}

    def prepare(self, layer: QuantizedLinear, dtype: torch.dtype) -> None:
        """Let the kernels lay out what they need."""
        for kernel in self.used():
            kernel.prepare(layer, dtype)

    def codes(self, layer: QuantizedLinear) -> Tensor | None:
        """The codes (out, in) int8 that a kernel took away, or None where they still stand in the layer."""
        return next((codes for kernel in self.used() if (codes := kernel.codes(layer)) is not None), None)
