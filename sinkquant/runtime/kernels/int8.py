"""Codes × codes in int32 by `torch._int_mm`: exact, on the weights as they are stored.

Weights of at most 8 bits with one scale a channel and no zero point; static or dynamic inputs of at most 8 bits.
Weights below 8 bits are unpacked for the call. With codes q and w, input scale s and zero point z, and weight scale v:

    y = s · v · (q·wᵀ − z · Σ w) + b
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.inputs import Rounded, round_input, weight_codes
from sinkquant.runtime.kernels.processor import narrow_sums
from sinkquant.runtime.kernels.schemes import is_integer_product
from sinkquant.runtime.linear import QuantizedLinear

CUDA_ROWS = 32  # cuBLAS takes more than 16 rows


class Int8Kernel(Kernel):
    """Integer products; see the module."""

    name = "int8"

    def suits(self, scheme: LinearScheme, out_features: int, in_features: int, device: torch.device) -> bool:
        """On CUDA multiples of 8; on the CPU every size, but torch has only a plain loop for x86 without VNNI."""
        if not is_integer_product(scheme, in_features):
            return False
        if device.type == "cuda":
            return in_features % 8 == 0 and out_features % 8 == 0
        return device.type == "cpu" and not narrow_sums(device)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Sums are exact."""
        return dtype

    def operand(self, layer: QuantizedLinear, x: Tensor) -> Rounded:
        """Codes as int8."""
        rounded = round_input(layer, x)
        return rounded._replace(codes=rounded.codes.to(torch.int8))

    def __call__(self, layer: QuantizedLinear, operand: Rounded) -> Tensor:
        """(rows, in) to (rows, out); the products and their sums are exact, the scales are applied in float32."""
        codes, zero, scale = operand
        weight = weight_codes(layer)
        total = int_product(codes, weight)
        if zero is not None:
            total -= zero.to(torch.int32) * weight.sum(1, dtype=torch.int32)
        y = total * layer.kernel_ranges
        if scale is not None:
            y *= scale
        if layer.bias is not None:
            y += layer.bias
        return y


def int_product(codes: Tensor, weight: Tensor) -> Tensor:
    """(rows, in) int8 times (out, in) int8 transposed: (rows, out) int32."""
    rows = len(codes)
    if codes.is_cuda and rows < CUDA_ROWS:
        return torch._int_mm(pad(codes, (0, 0, 0, CUDA_ROWS - rows)), weight.T)[:rows]
    return torch._int_mm(codes, weight.T)
