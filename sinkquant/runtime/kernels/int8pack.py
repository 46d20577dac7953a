"""8-bit weights as they are stored under a few rows, by torch's `_weight_int8pack_mm`, for CPUs without VNNI.

The operator multiplies bfloat16 inputs, which hold every 8-bit code exactly, adds up in float32 and returns bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.inputs import Rounded, combine_ranges, round_input, weight_codes
from sinkquant.runtime.kernels.processor import narrow_sums
from sinkquant.runtime.linear import QuantizedLinear


class Int8PackKernel(Kernel):
    """8-bit weights, rounded or float inputs; see the module."""

    name = "int8pack"
    most_rows = 64

    def suits(self, scheme: LinearScheme, out_features: int, in_features: int, device: torch.device) -> bool:
        """Weights with one scale a channel and no zero point; CPUs with VNNI have exact kernels."""
        weight, inputs = scheme.weight, scheme.activation
        if weight is None or weight.bits != 8 or not weight.symmetric or (inputs is not None and inputs.bits > 8):
            return False
        return weight.group_size in (None, in_features) and narrow_sums(device)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Outputs, and inputs that stay in float, are rounded to it."""
        return torch.bfloat16

    def prepare(self, layer: QuantizedLinear, dtype: torch.dtype) -> None:
        """Scales that are known beforehand are multiplied once."""
        combine_ranges(layer, dtype)

    def operand(self, layer: QuantizedLinear, x: Tensor) -> Rounded:
        """Codes, or the inputs themselves, as bfloat16."""
        if layer.scheme.activation is None:
            return Rounded(x.to(torch.bfloat16), None, None)
        codes, zero, scale = round_input(layer, x)
        codes = codes if zero is None else codes.sub_(zero)  # at most ±255, which bfloat16 still holds
        return Rounded(codes.to(torch.bfloat16), None, scale)

    def __call__(self, layer: QuantizedLinear, operand: Rounded) -> Tensor:
        """(rows, in) to (rows, out); scales are applied in float32."""
        weight = weight_codes(layer)
        ones = torch.ones(len(weight), dtype=torch.bfloat16)
        y = torch._weight_int8pack_mm(operand.codes, weight, ones) * layer.kernel_ranges
        if operand.scale is not None:
            y *= operand.scale
        if layer.bias is not None:
            y += layer.bias
        return y
