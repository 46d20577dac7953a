"""Which kernels run a layer here: the fastest that are right, on a layer of its size with random codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.choice import Choice
from sinkquant.runtime.kernels.digits import DigitsKernel
from sinkquant.runtime.kernels.int4 import Int4Kernel
from sinkquant.runtime.kernels.int8 import Int8Kernel
from sinkquant.runtime.kernels.int8pack import Int8PackKernel
from sinkquant.runtime.kernels.onednn import OneDnnKernel
from sinkquant.runtime.kernels.samples import random_layer
from sinkquant.runtime.kernels.trial import try_kernels
from sinkquant.runtime.linear import QuantizedLinear

KERNELS: tuple[Kernel, ...] = (Int8Kernel(), OneDnnKernel(), DigitsKernel(), Int8PackKernel(), Int4Kernel())
WEIGHTS = 2**19  # a larger layer is tried with fewer outputs, about that many weights


class Chooser:
    """Tries kernels and remembers what came of it, by scheme, size, dtype and device."""

    def __init__(self, kernels: Sequence[Kernel] = KERNELS) -> None:
        self.kernels = tuple(kernels)
        self._known: dict[tuple[object, ...], Choice | None] = {}

    def choose(self, layers: Sequence[QuantizedLinear], dtype: torch.dtype) -> Choice | None:
        """The choice for `layers` under inputs of `dtype`, or None where only the dequantizing path will do.

        They must have one product and one device, and are tried as one layer with the outputs of all.
        """
        scheme, width = product_of(layers[0])
        assert scheme.weight is not None
        device, outputs = layers[0].weight_scale.device, sum(layer.out_features for layer in layers)
        most = max(WEIGHTS // width // 64, 1) * 64
        if outputs > most:
            outputs = most + outputs % 64  # what a kernel asks of sizes concerns their divisors up to 64
        kernels = tuple(
            kernel
            for kernel in self.kernels
            if all(kernel.suits(scheme, layer.out_features, width, device) for layer in layers)
        )
        facts = (kernels, scheme, outputs, width, device, dtype)
        if facts not in self._known:
            trial = random_layer(scheme, outputs, width, device) if kernels else None
            self._known[facts] = None if trial is None else try_kernels(trial, kernels, dtype)
        return self._known[facts]


def product_of(layer: QuantizedLinear) -> tuple[LinearScheme, int]:
    """What a layer computes, whatever is done to its input before: the scheme of the product, and its inputs."""
    scheme = layer.scheme
    activation = None if scheme.activation is None else replace(scheme.activation, route=None, clip=1.0)
    return LinearScheme(scheme.weight, activation), layer.in_features
