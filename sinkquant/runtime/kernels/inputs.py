"""Inputs rounded to integers, as every integer kernel needs them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sinkquant.quantization.activations import token_ranges
from sinkquant.quantization.grid import quantize
from sinkquant.quantization.scheme import ActivationScheme
from sinkquant.runtime.linear import QuantizedLinear


class Rounded(NamedTuple):
    """Rounded inputs: q − zero, times scale, is what they stand for."""

    codes: Tensor  # q (rows, in), in the type that the kernel multiplies
    zero: Tensor | None
    scale: Tensor | None  # (rows, 1) float32, or None: the same in all rows, and part of the layer's `kernel_ranges`


def round_input(layer: QuantizedLinear, x: Tensor) -> Rounded:
    """Prepared input `x` (rows, in) on its grid, codes as floats."""
    scheme = layer.scheme.activation
    assert scheme is not None
    scale, zero = layer.static_range(x) if scheme.mode == "static" else token_ranges(x, scheme)
    codes = quantize(x, scale, zero, scheme.grid)
    return Rounded(codes, zero, None if _is_one(scheme) else scale.float())


def _is_one(scheme: ActivationScheme) -> bool:
    """Whether all rows have one range."""
    return scheme.mode == "static" and scheme.ranges == 1


def combine_ranges(layer: QuantizedLinear, dtype: torch.dtype) -> None:
    """Keep the factor of every output (out,) float32: the weight's scale, times that of inputs of `dtype` if they have
    one."""
    ranges = layer.weight_scale.flatten().float()  # in half precision the integer sums that they multiply overflow
    if layer.scheme.activation is not None and _is_one(layer.scheme.activation):
        ranges = layer.stored_range(dtype)[0].float() * ranges
    layer.register_buffer("kernel_ranges", ranges, persistent=False)


def weight_codes(layer: QuantizedLinear) -> Tensor:
    """Weight codes (out, in) int8: as they are stored, or unpacked for the call."""
    codes = layer.int8_codes()
    return layer.quantized_weight().codes if codes is None else codes
