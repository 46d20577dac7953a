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
from sinkquant.runtime.kernels.inputs import combine_ranges, round_input, weight_codes
from sinkquant.runtime.kernels.int8 import is_integer_product
from sinkquant.runtime.kernels.processor import fit_narrow_sums, narrow_sums
from sinkquant.runtime.linear import QuantizedLinear

SHIFT = 128


class OneDnnKernel(Kernel):
    """Integer products of narrow weights; see the module."""

    name = "onednn"

    def suits(self, scheme: LinearScheme, out_features: int, in_features: int, device: torch.device) -> bool:
        """Weights of ±64 at most (or below 8 bits), one scale a channel; CPUs with VNNI have a simpler kernel."""
        if scheme.weight is None or not is_integer_product(scheme, in_features):
            return False
        return narrow_sums(device) and fit_narrow_sums(scheme.weight.grid)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Sums are exact."""
        return dtype

    def prepare(self, layer: QuantizedLinear, dtype: torch.dtype) -> None:
        """Static ranges are multiplied once."""
        combine_ranges(layer, dtype)

    def __call__(self, layer: QuantizedLinear, x: Tensor) -> Tensor:
        """(rows, in) to (rows, out); the products and their sums are exact, the scales are applied in float32."""
        inputs, zero, channel, token = round_input(layer, x)
        codes = weight_codes(layer)
        y = product(inputs.add_(SHIFT).to(torch.uint8), codes, channel)
        if zero is not None:
            y -= zero.float() * codes.sum(1, dtype=torch.int32) * channel
        if token is not None:
            y *= token
        if layer.bias is not None:
            y += layer.bias
        return y.to(x.dtype)


def product(inputs: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """(rows, in) uint8 less 128 times (out, in) int8 transposed, times `scale` (out,): (rows, out) float32."""
    packed = weight.to_mkldnn().transpose(0, 1)  # what `qlinear_prepack` gives here, in half of its time
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    return torch.ops.onednn.qlinear_pointwise(
        inputs, 1.0, SHIFT, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )  # type: ignore[no-any-return]
