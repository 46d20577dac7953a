"""What a layer computes by its definition, in float64."""

from __future__ import annotations

from torch import Tensor

from sinkquant.quantization.activations import token_ranges
from sinkquant.quantization.grid import dequantize, quantize
from sinkquant.quantization.weights import QuantizedWeight
from sinkquant.runtime.linear import QuantizedLinear

COMPARED = 256  # about that many outputs are compared


class Exact:
    """Some outputs of a layer.

    Of many outputs every n-th is computed, so that no large weight exists in float64; n is odd, to meet every lane.
    """

    def __init__(self, layer: QuantizedLinear) -> None:
        self.layer, self.outputs = layer, slice(None, None, (layer.out_features // COMPARED) | 1)
        weight = layer.quantized_weight()
        zero = None if weight.zero is None else weight.zero[self.outputs]
        chosen = QuantizedWeight(weight.codes[self.outputs], weight.scale[self.outputs], zero)
        self.weight = chosen.dequantized().double()

    def relative_error(self, y: Tensor, x: Tensor, rows: int = 16) -> float:
        """Of the last rows of `y` (tokens, out) for prepared inputs `x` (tokens, in); codes as in `x`'s dtype."""
        x, y = x[-rows:], y[-rows:, self.outputs].double()
        inputs = self.layer.scheme.activation
        exact = x.double()
        if inputs is not None:
            scale, zero = token_ranges(x, inputs) if inputs.mode == "dynamic" else self.layer.static_range(x)
            codes = quantize(x, scale, zero, inputs.grid)
            exact = dequantize(codes, scale.double(), None if zero is None else zero.double())
        expected = exact @ self.weight.T
        if self.layer.bias is not None:
            expected += self.layer.bias[self.outputs].double()
        return float((y - expected).norm() / expected.norm())
