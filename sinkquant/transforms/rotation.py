"""Random Hadamard rotations: orthogonal matrices that spread an outlier over all channels, never stored as a matrix.

Q = diag(signs) · H with random signs, as in QuIP# (arXiv 2402.04396) and QuaRot (arXiv 2404.00456).

A layer norm subtracts the mean, so that a rotation goes through it only if it leaves the mean alone. It does if it maps
the vector of ones to itself: then xQ and x have the same mean, the same deviation, and norm(xQ) = norm(x)Q. One
reflection behind Q, of 1·Q to 1, makes it so.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import index

import torch
from torch import Tensor

from sinkquant.errors import SinkquantError
from sinkquant.hadamard.transform import constant, fast_hadamard, fast_hadamard_transpose


@dataclass(frozen=True)
class Rotation:
    """The orthogonal matrix Q = diag(signs) · H (size, size); `seed` draws the signs, None leaves them out.

    `keeps_mean`: Q = diag(signs) · H · (I − 2wwᵀ), so that 1·Q = 1, for w along 1·diag(signs)·H − 1.
    """

    size: int
    seed: int | None = None
    keeps_mean: bool = False

    def apply(self, x: Tensor) -> Tensor:
        """x (…, size) -> x @ Q."""
        self._check(x)
        y = fast_hadamard(x if self.seed is None else x * self._signs(x))
        return self._reflect(y) if self.keeps_mean else y

    def apply_transpose(self, x: Tensor) -> Tensor:
        """x (…, size) -> x @ Qᵀ, the inverse of `apply`."""
        self._check(x)
        y = fast_hadamard_transpose(self._reflect(x) if self.keeps_mean else x)
        return y if self.seed is None else y * self._signs(x)

    def matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Q itself (size, size), computed in float64."""
        return self.apply(torch.eye(self.size, dtype=torch.float64)).to(dtype)

    def _reflect(self, x: Tensor) -> Tensor:
        """x·(I − 2wwᵀ); no more than x where the ones stay as they are without."""
        ones = torch.ones(self.size, dtype=torch.float64, device=x.device)
        w = Rotation(self.size, self.seed).apply(ones) - ones
        w = (w / w.norm().clamp_min(1e-9)).to(x.dtype)
        return x - 2 * (x @ w)[..., None] * w

    def _signs(self, x: Tensor) -> Tensor:
        return random_signs(index(self.size), index(self.seed or 0), x.dtype, x.device)

    def _check(self, x: Tensor) -> None:
        if x.shape[-1] != self.size:
            raise SinkquantError(
                f"a rotation of size {self.size} cannot act on {x.shape[-1]} channels: build it for that size."
            )


@constant
def random_signs(size: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """±1 (size,) drawn by `seed` from torch's CPU generator, so that every device gets the same."""
    bits = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed))
    return (2 * bits - 1).to(device, dtype)
