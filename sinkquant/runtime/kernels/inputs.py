"""Inputs rounded to integers, as every integer kernel needs them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sinkquant.quantization.activations import token_ranges
from sinkquant.quantization.grid import quantize
from sinkquant.runtime.linear import QuantizedLinear


def combine_ranges(layer: QuantizedLinear, dtype: torch.dtype) -> None:
    """Multiply static scales of input and weight once and keep them; ranges of tokens are not known beforehand."""
    if layer.scheme.activation is not None and layer.scheme.activation.mode == "static":
        ranges = layer.static_range(dtype)[0].float() * layer.weight_scale.flatten()
        layer.register_buffer("kernel_ranges", ranges, persistent=False)


class Rounded(NamedTuple):
    """Rounded inputs: (q − zero)·wᵀ · channel · token is their product with weight codes w."""

    codes: Tensor  # q (rows, in), as floats
    zero: Tensor | None
    channel: Tensor  # (out,) float32
    token: Tensor | None  # (rows, 1) float32


def round_input(layer: QuantizedLinear, x: Tensor) -> Rounded:
    """Prepared input `x` (rows, in) on its grid."""
    scheme = layer.scheme.activation
    assert scheme is not None
    if scheme.mode == "static":
        scale, zero = layer.static_range(x.dtype)
        return Rounded(quantize(x, scale, zero, scheme.grid), zero, layer.kernel_ranges, None)
    scale, zero = token_ranges(x, scheme)
    return Rounded(quantize(x, scale, zero, scheme.grid), zero, layer.weight_scale.flatten(), scale.float())


def weight_codes(layer: QuantizedLinear) -> Tensor:
    """Weight codes (out, in) int8: as they are stored, or unpacked for the call."""
    weight = layer._buffers.get("weight")
    return layer.quantized_weight().codes if weight is None else weight
