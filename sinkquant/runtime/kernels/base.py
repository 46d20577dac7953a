"""What a kernel is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from sinkquant.runtime.kernels.inputs import combine_ranges

if TYPE_CHECKING:
    from sinkquant.quantization.scheme import LinearScheme
    from sinkquant.runtime.linear import QuantizedLinear


class Kernel(Protocol):
    """One way to compute a quantized linear. It holds no tensors: those stay in the layer.

    Of the kernels that suit a scheme, one at most may lay the codes out anew.
    """

    name: str
    most_rows: int | None = None  # made for at most that many rows, not tried for more

    def suits(self, scheme: LinearScheme, out_features: int, in_features: int, device: torch.device) -> bool:
        """Whether it computes this scheme at this size on this device at all; says nothing on speed."""

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """The type whose rounding an output of `dtype` may show."""

    def prepare(self, layer: QuantizedLinear, dtype: torch.dtype) -> None:
        """Multiply scales that are known beforehand. A kernel may put the codes in another layout, in their place."""
        combine_ranges(layer, dtype)

    def codes(self, layer: QuantizedLinear) -> Tensor | None:
        """The codes (out, in) int8 that `prepare` took away, or None where they still stand in the layer."""
        return None

    def operand(self, layer: QuantizedLinear, x: Tensor) -> Any:
        """What the product takes of prepared input `x` (rows, in). The weight has no say in it: linears share it."""

    def __call__(self, layer: QuantizedLinear, operand: Any) -> Tensor:
        """The layer's output (rows, out) in float, bias included. `operand` must stay as it is."""
