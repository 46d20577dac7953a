"""8-bit weights under float inputs: every input number as two digits of 8 bits, both multiplied by `torch._int_mm`.

x ≈ s · (128 · h + l) with one scale s a token and integers |h| ≤ 127, |l| ≤ 64: fifteen bits with the sign, so an input
number is off by at most s / 2 = max|x| / 32512. With weight codes w of scale v:

    y = s · v · (128 · h·wᵀ + l·wᵀ) + b
"""

from __future__ import annotations

import torch
from torch import Tensor

from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.inputs import weight_codes
from sinkquant.runtime.kernels.int8 import int_product
from sinkquant.runtime.kernels.processor import narrow_sums
from sinkquant.runtime.kernels.schemes import scales_by_channel
from sinkquant.runtime.linear import QuantizedLinear

BASE, HIGHEST = 128, 127


class DigitsKernel(Kernel):
    """8-bit weights, float inputs; see the module."""

    name = "digits"

    def suits(self, scheme: LinearScheme, out_features: int, in_features: int, device: torch.device) -> bool:
        """On the CPU, where `int8` does, for weights with one scale a channel and no zero point."""
        weight = scheme.weight
        if weight is None or scheme.activation is not None or weight.bits != 8:
            return False
        return scales_by_channel(weight, in_features) and device.type == "cpu" and not narrow_sums(device)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Between bfloat16 and float32."""
        return torch.float16 if dtype == torch.float32 else dtype

    def operand(self, layer: QuantizedLinear, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale (rows, 1), and the high digits above the low ones (2 · rows, in) int8."""
        scale, high, low = two_digits(x.float())
        return scale, torch.cat([high, low]).to(torch.int8)

    def __call__(self, layer: QuantizedLinear, operand: tuple[Tensor, Tensor]) -> Tensor:
        """(rows, in) to (rows, out)."""
        scale, digits = operand
        high, low = int_product(digits, weight_codes(layer)).float().chunk(2)
        y = torch.add(low, high, alpha=BASE).mul_(scale * layer.kernel_ranges)
        if layer.bias is not None:
            y += layer.bias
        return y


def two_digits(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale (rows, 1), high and low digits (rows, in) of `x` (rows, in) float32, the digits as floats."""
    scale = (x.abs().amax(-1, keepdim=True) / (BASE * HIGHEST)).clamp_min(torch.finfo(x.dtype).tiny)
    whole = (x / scale).round_()
    high = (whole / BASE).round_()
    return scale, high, whole.sub_(high, alpha=BASE)
