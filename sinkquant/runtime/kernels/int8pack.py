"""8-bit weights as they are stored under a few rows, by torch's `_weight_int8pack_mm`, for CPUs without VNNI.

The operator takes bfloat16 inputs, which hold every 8-bit code exactly, adds up in float32 and returns bfloat16. (Of
float32 inputs it would return float32, but for those torch has only a plain loop.) It loads whole vectors of inputs,
and with AVX-512 of weights, from aligned addresses: where one is not, the process ends.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.inputs import Rounded, round_input, weight_codes
from sinkquant.runtime.kernels.processor import narrow_sums
from sinkquant.runtime.kernels.schemes import scales_by_channel
from sinkquant.runtime.linear import QuantizedLinear

VECTOR = 16  # numbers that AVX-512 loads at once; AVX2 takes half of them
ALIGNMENT = 32  # bytes of that many inputs


class Int8PackKernel(Kernel):
    """8-bit weights, rounded or float inputs; see the module."""

    name = "int8pack"
    most_rows = 64

    def suits(self, scheme: LinearScheme, out_features: int, in_features: int, device: torch.device) -> bool:
        """Rows of whole vectors, one scale a channel and no zero point; CPUs with VNNI have exact kernels."""
        weight, inputs = scheme.weight, scheme.activation
        if weight is None or weight.bits != 8 or (inputs is not None and inputs.bits > 8):
            return False
        if out_features * in_features >= 2**31:  # torch counts the codes in 32 bits
            return False
        return scales_by_channel(weight, in_features) and in_features % VECTOR == 0 and narrow_sums(device)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Outputs, and inputs that stay in float, are rounded to it."""
        return torch.bfloat16

    def prepare(self, layer: QuantizedLinear, dtype: torch.dtype) -> None:
        """Codes that are mapped from a file may stand at any address."""
        super().prepare(layer, dtype)
        if (weight := layer._buffers.get("weight")) is not None:
            layer._buffers["weight"] = _aligned_weight(weight)

    def operand(self, layer: QuantizedLinear, x: Tensor) -> Rounded:
        """Codes, or the inputs themselves, as bfloat16."""
        if layer.scheme.activation is None:
            return Rounded(x.to(torch.bfloat16), None, None)
        codes, zero, scale = round_input(layer, x)
        codes = codes if zero is None else codes.sub_(zero)  # at most ±255, which bfloat16 still holds
        return Rounded(codes.to(torch.bfloat16), None, scale)

    def __call__(self, layer: QuantizedLinear, operand: Rounded) -> Tensor:
        """(rows, in) to (rows, out); scales are applied in float32."""
        y = product(operand.codes, weight_codes(layer)) * layer.kernel_ranges
        if operand.scale is not None:
            y *= operand.scale
        if layer.bias is not None:
            y += layer.bias
        return y


def product(inputs: Tensor, weight: Tensor) -> Tensor:
    """(rows, in) bfloat16 times (out, in) int8 transposed: (rows, out) bfloat16. `in` is a multiple of `VECTOR`."""
    ones = torch.ones(len(weight), dtype=torch.bfloat16, device=weight.device)
    return torch._weight_int8pack_mm(_aligned(inputs), _aligned_weight(weight), ones)


def _aligned(x: Tensor) -> Tensor:
    """`x` itself, or a copy where its numbers do not begin at a multiple of `ALIGNMENT` bytes."""
    return x.clone() if x.data_ptr() % ALIGNMENT else x


def _aligned_weight(weight: Tensor) -> Tensor:
    """The same for a weight, which AVX2 loads from anywhere."""
    return weight if torch.backends.cpu.get_cpu_capability() == "AVX2" else _aligned(weight)
