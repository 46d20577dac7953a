"""Keys and values on an asymmetric grid, one range a token and head, with a float minimum.

x ≈ q·s + m with q = 0 … 2^bits − 1, m the token's minimum and s its range / (2^bits − 1). Scale and minimum are rounded
to float16 before the codes are chosen, so that a cache that stores 16 bits of each loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sinkquant.quantization.grid import round_between

SMALLEST_SCALE = 2.0**-20
"""Keeps a constant token's scale away from zero, and float16 precise enough for all others."""


@dataclass(frozen=True)
class KVGrid:
    """The grid of one attention's keys or values (…, heads, tokens, d).

    `clip` shrinks a token's range around its middle; `offset` (heads, 1, d) is taken out before and put back after.
    """

    bits: int
    clip: float = 1.0
    offset: Tensor | None = None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (…, d) uint8, scale and minimum (…, 1) float16 for `x` (…, d) of any float type."""
        codes, scale, low = self._codes(x)
        return codes.to(torch.uint8), scale, low

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same with codes in float32, which pass gradients on."""
        x = x.float() if self.offset is None else x.float() - self.offset
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)  # torch's `aminmax` is slow along an axis
        if self.clip != 1.0:
            middle, half = (high + low) / 2, (high - low) * (self.clip / 2)
            low, high = middle - half, middle + half
        top = 2**self.bits - 1
        low = _half(low)
        scale = _half(((high - low) / top).clamp_min(SMALLEST_SCALE))
        return round_between((x - low) / scale.float(), 0, top), scale, low

    def decode(self, codes: Tensor, scale: Tensor, low: Tensor, dtype: torch.dtype) -> Tensor:
        """The inverse of `encode` up to rounding, computed in float32."""
        x = torch.addcmul(low.float(), codes.float(), scale.float())
        return (x if self.offset is None else x + self.offset).to(dtype)

    def fake(self, x: Tensor) -> Tensor:
        """`x` as it comes back from the quantized cache."""
        return self.decode(*self._codes(x), x.dtype)


def _half(x: Tensor) -> Tensor:
    limit = torch.finfo(torch.float16).max
    return x.clamp(-limit, limit).half()
