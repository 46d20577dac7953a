"""Codes × codes in int32 by `torch._int_mm`: exact, on the weights as they are stored.

Weights of at most 8 bits with one scale a channel and no zero point; static or dynamic inputs of at most 8 bits.
Weights below 8 bits are unpacked for the call. With codes q and w, input scale s and zero point z, and weight scale v:

    y = s · v · (q·wᵀ − z · Σ w) + b
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from sinkquant.quantization.activations import token_ranges
from sinkquant.quantization.grid import quantize
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.linear import QuantizedLinear

CUDA_ROWS = 32  # cuBLAS takes more than 16 rows


class Int8Kernel:
    """Integer products; see the module."""

    name = "int8"

    def suits(self, scheme: LinearScheme, out_features: int, in_features: int, device: torch.device) -> bool:
        """On the CPU every size; on CUDA multiples of 8."""
        weight, inputs = scheme.weight, scheme.activation
        if weight is None or inputs is None or inputs.bits > 8:
            return False
        if not weight.symmetric or weight.group_size not in (None, in_features):
            return False
        return device.type == "cpu" or (device.type == "cuda" and in_features % 8 == 0 and out_features % 8 == 0)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Sums are exact."""
        return dtype

    def prepare(self, layer: QuantizedLinear, dtype: torch.dtype) -> None:
        """The stored codes are used as they are; static scales of input and weight are multiplied once."""
        if layer.scheme.activation is not None and layer.scheme.activation.mode == "static":
            ranges = layer.static_range(dtype)[0].float() * layer.weight_scale.flatten()
            layer.register_buffer("kernel_ranges", ranges, persistent=False)

    def codes(self, layer: QuantizedLinear) -> None:
        """None was taken away."""

    def __call__(self, layer: QuantizedLinear, x: Tensor) -> Tensor:
        """(rows, in) to (rows, out); the products and their sums are exact, the scales are applied in float32."""
        scheme = layer.scheme.activation
        assert scheme is not None
        if scheme.mode == "static":
            (scale, zero), ranges = layer.static_range(x.dtype), layer.kernel_ranges
        else:
            scale, zero = token_ranges(x, scheme)
            ranges = scale.float() * layer.weight_scale.flatten()
        weight = layer._buffers.get("weight")
        codes = layer.quantized_weight().codes if weight is None else weight
        total = int_product(quantize(x, scale, zero, scheme.grid).to(torch.int8), codes)
        if zero is not None:
            total -= zero.to(torch.int32) * codes.sum(1, dtype=torch.int32)
        y = total * ranges
        if layer.bias is not None:
            y += layer.bias
        return y.to(x.dtype)


def int_product(codes: Tensor, weight: Tensor) -> Tensor:
    """(rows, in) int8 times (out, in) int8 transposed: (rows, out) int32."""
    rows = len(codes)
    if codes.is_cuda and rows < CUDA_ROWS:
        return torch._int_mm(pad(codes, (0, 0, 0, CUDA_ROWS - rows)), weight.T)[:rows]
    return torch._int_mm(codes, weight.T)
