"""Which kernels run a layer here: the fastest that are right, on a layer of its size with random codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.digits import DigitsKernel
from sinkquant.runtime.kernels.int4 import Int4Kernel
from sinkquant.runtime.kernels.int8 import Int8Kernel
from sinkquant.runtime.kernels.int8pack import Int8PackKernel
from sinkquant.runtime.kernels.onednn import OneDnnKernel
from sinkquant.runtime.kernels.samples import random_layer
from sinkquant.runtime.kernels.selection import Selection
from sinkquant.runtime.kernels.trial import try_kernels
from sinkquant.runtime.linear import QuantizedLinear

KERNELS: tuple[Kernel, ...] = (Int8Kernel(), OneDnnKernel(), DigitsKernel(), Int8PackKernel(), Int4Kernel())
WEIGHTS, OUTPUTS = 2**19, 256  # larger layers are tried with fewer outputs: so many weights or outputs


class Product(NamedTuple):
    """The product of a linear, and the kernels that suit it."""

    scheme: LinearScheme
    width: int
    device: torch.device
    kernels: tuple[Kernel, ...]


class Chooser:
    """Tries kernels and remembers what came of it, by scheme, size, dtype and device."""

    def __init__(self, kernels: Sequence[Kernel] = KERNELS) -> None:
        self.kernels = tuple(kernels)
        self._known: dict[tuple[object, ...], Selection | None] = {}

    def choose(self, layers: Sequence[QuantizedLinear], dtype: torch.dtype) -> Selection | None:
        """The choice for `layers` under inputs of `dtype`, or None where only the dequantizing path will do.

        What `product_of` says of them must be equal. They are tried as one layer with the outputs of all.
        """
        product = self.product_of(layers[0])
        outputs, most = sum(layer.out_features for layer in layers), max(WEIGHTS // product.width // 64 * 64, OUTPUTS)
        if outputs > most:
            outputs = most + outputs % 64  # what a kernel asks of sizes concerns their divisors up to 64
        facts = (product, outputs, dtype)
        if facts not in self._known:
            self._known[facts] = _tried(*facts)
        return self._known[facts]

    def product_of(self, layer: QuantizedLinear) -> Product:
        """What `layer`, whose weight is quantized, computes of a prepared input."""
        scheme, device = layer.scheme, layer.weight_scale.device
        activation = (
            None if scheme.activation is None else replace(scheme.activation, route=None, clip=1.0, media=False)
        )
        bare = LinearScheme(scheme.weight, activation)
        facts = (bare, layer.out_features, layer.in_features, device)
        return Product(bare, layer.in_features, device, tuple(k for k in self.kernels if k.suits(*facts)))


def _tried(product: Product, outputs: int, dtype: torch.dtype) -> Selection | None:
    if not product.kernels:
        return None
    return try_kernels(random_layer(product.scheme, outputs, product.width, product.device), product.kernels, dtype)
