"""Codes × codes by oneDNN's `qlinear_pointwise`, for CPUs without VNNI: exact where 16 bits hold the sums of pairs.

Inputs are moved to 0 … 255 and the weights transposed for the call, as this operator wants them; many rows are worth
it. With codes q and w, input scale s and zero point z, and weight scale v:

    y = s · v · ((q + 128)·wᵀ − 128 · Σ w − z · Σ w) + b

The operator takes the 128 out itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.inputs import Rounded, round_input, weight_codes
from sinkquant.runtime.kernels.processor import fit_narrow_sums, narrow_sums
from sinkquant.runtime.kernels.schemes import is_integer_product
from sinkquant.runtime.linear import QuantizedLinear

SHIFT = 128


class OneDnnKernel(Kernel):
    """Integer products of narrow weights; see the module."""

    name = "onednn"

    def suits(self, scheme: LinearScheme, out_features: int, in_features: int, device: torch.device) -> bool:
        """Weights of ±64 at most (or below 8 bits), one scale a channel; CPUs with VNNI have a simpler kernel."""
        if not is_integer_product(scheme, in_features) or not narrow_sums(device):
            return False
        return scheme.weight is not None and fit_narrow_sums(scheme.weight.grid)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Sums are exact."""
        return dtype

    def operand(self, layer: QuantizedLinear, x: Tensor) -> Rounded:
        """Codes as uint8, 128 larger than they are."""
        rounded = round_input(layer, x)
        codes = rounded.codes.to(torch.int8).view(torch.uint8)
        return rounded._replace(codes=codes.bitwise_xor_(SHIFT))  # the same as adding it, and torch is faster that way

    def __call__(self, layer: QuantizedLinear, operand: Rounded) -> Tensor:
        """(rows, in) to (rows, out); the products and their sums are exact, the scales are applied in float32."""
        codes, zero, scale = operand
        weight = weight_codes(layer)
        y = product(codes, weight, layer.kernel_ranges)
        if zero is not None:
            y -= zero.float() * weight.sum(1, dtype=torch.int32) * layer.kernel_ranges
        if scale is not None:
            y *= scale
        if layer.bias is not None:
            y += layer.bias
        return y


def product(inputs: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """(rows, in) uint8 less 128 times (out, in) int8 transposed, times `scale` (out,): (rows, out) float32."""
    packed = weight.to_mkldnn().transpose(0, 1)  # what `qlinear_prepack` gives here, in half of its time
    zeros = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
    return torch.ops.onednn.qlinear_pointwise(
        inputs, 1.0, SHIFT, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )  # type: ignore[no-any-return]
