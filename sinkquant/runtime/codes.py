"""A module that holds codes in the place of a float weight, and still has a `weight` for the model around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

CODES = ("weight", "weight_packed", "kernel_codes")  # names that buffers with codes have


class CodedModule(nn.Module):
    """Codes, scales and means are buffers, the codes under the name that they have on disk, which may be `weight`.

    Models read `weight.dtype` and `weight.device`, some multiply by `weight`: the attribute is the float weight that
    the codes stand for, in the type that the model computes in. Buffers keep their own types wherever the module moves:
    scales in half precision would be other scales.
    """

    dtype: torch.dtype  # of `weight`
    filling = False  # by a loader, which takes `weight` for what it stores

    def dequantized_weight(self, dtype: torch.dtype) -> Tensor:
        """The float weight."""
        raise NotImplementedError

    def weight_size(self) -> tuple[int, int]:
        """Shape of the float weight."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """The float weight, dequantized at every call; a parameter where it is stored in float."""
        stored: Tensor | None = self._parameters.get("weight")
        if stored is not None:
            return stored
        if self.filling and "weight" in self._buffers:
            return self._buffers["weight"]  # type: ignore[return-value]
        if not any(self._buffers.get(name) is not None for name in CODES):
            raise AttributeError("weight")
        if any(buffer is not None and buffer.is_meta for buffer in self._buffers.values()):
            return torch.empty(self.weight_size(), dtype=self.dtype, device="meta")
        return self.dequantized_weight(self.dtype)

    def int8_codes(self) -> Tensor | None:
        """Codes that are stored one a byte. (A loader that goes by `weight.dtype` may have brought them as floats.)"""
        codes = self._buffers.get("weight")
        return None if codes is None else codes.to(torch.int8)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self
