"""What a packed cache keeps of the keys, or of the values, of one attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkquant.quantization.kv import KVGrid
from sinkquant.runtime.packing import pack_bytes, unpack_bytes


@dataclass(frozen=True)
class States:
    """Keys or values: older tokens packed, newer ones exact. A token is encoded once and never again.

    Every tensor owns its memory: a slice would keep what it was cut from.
    """

    codes: Tensor  # (B, Hkv, P, bytes) uint8
    scale: Tensor  # (B, Hkv, P, 1) float16
    low: Tensor  # (B, Hkv, P, 1) float16
    exact: Tensor  # (B, Hkv, E, d)

    @classmethod
    def empty(cls, like: Tensor, bits: int) -> States:
        """No tokens, for keys or values shaped and placed as `like` (B, Hkv, any, d)."""
        none = like[:, :, :0].clone()
        codes, scale, low = KVGrid(bits).encode(none)
        return cls(pack_bytes(codes, bits), scale, low, none)

    @property
    def packed(self) -> int:
        """Number of packed tokens P."""
        return self.codes.shape[2]

    @property
    def length(self) -> int:
        """Number of tokens P + E."""
        return self.packed + self.exact.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes that all tensors take, the memory behind slices included."""
        return sum(x.untyped_storage().nbytes() for x in vars(self).values())

    def each(self, change: Callable[[Tensor], Tensor]) -> States:
        """Every tensor changed."""
        return States(*(change(x) for x in vars(self).values()))

    def append(self, new: Tensor) -> States:
        """With new exact tokens (B, Hkv, T, d) at the end."""
        return States(self.codes, self.scale, self.low, torch.cat([self.exact, new], dim=2))

    def pack(self, count: int, grid: KVGrid) -> States:
        """At least the first `count` tokens packed."""
        leaving = count - self.packed
        if leaving <= 0:
            return self
        codes, scale, low = grid.encode(self.exact[:, :, :leaving])
        return States(
            torch.cat([self.codes, pack_bytes(codes, grid.bits)], dim=2),
            torch.cat([self.scale, scale], dim=2),
            torch.cat([self.low, low], dim=2),
            self.exact[:, :, leaving:].clone(),
        )

    def cut(self, first: int, last: int) -> States:
        """Tokens `first` … `last` − 1."""
        if first <= 0 and last >= self.length:
            return self
        first, split = max(first, 0), self.packed
        codes, scale, low = (x[:, :, first:last].clone() for x in (self.codes, self.scale, self.low))
        return States(codes, scale, low, self.exact[:, :, max(first - split, 0) : max(last - split, 0)].clone())

    def decode(self, grid: KVGrid) -> Tensor:
        """The packed tokens (B, Hkv, P, d)."""
        codes = unpack_bytes(self.codes, grid.bits, self.exact.shape[-1])
        return grid.decode(codes, self.scale, self.low, self.exact.dtype)
