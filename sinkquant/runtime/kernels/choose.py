"""Which kernels run a layer here: the fastest that are right, on a layer of its size with random codes."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sinkquant.quantization.activations import token_ranges
from sinkquant.quantization.grid import dequantize, quantize
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.quantization.weights import QuantizedWeight
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.digits import DigitsKernel
from sinkquant.runtime.kernels.int4 import Int4Kernel
from sinkquant.runtime.kernels.int8 import Int8Kernel
from sinkquant.runtime.kernels.int8pack import Int8PackKernel
from sinkquant.runtime.kernels.onednn import OneDnnKernel
from sinkquant.runtime.linear import QuantizedLinear

KERNELS: tuple[Kernel, ...] = (Int8Kernel(), OneDnnKernel(), DigitsKernel(), Int8PackKernel(), Int4Kernel())
ROWS = (1, 16, 64, 256)  # numbers of rows that are tried; a number between two is taken for the larger
WEIGHTS = 2**20  # a larger layer is tried with fewer outputs, about that many weights
COMPARED = 256  # about that many outputs are compared with float64
REPEATS = 3  # calls of each way, for one slow call may be a hiccup of the machine, but no more where
CLEAR, ENOUGH = 1.3, 0.01  # a kernel is faster than all others by so clear a ratio, or they have taken so many seconds
EXACT = 1e-6  # relative error of sums in float32


@dataclass(frozen=True)
class Choice:
    """For each of `ROWS` the fastest way: a kernel that is right, or None for the dequantizing path."""

    kernels: tuple[Kernel | None, ...]

    @classmethod
    def always(cls, kernel: Kernel) -> Choice:
        """That kernel for every number of rows."""
        return cls((kernel,) * len(ROWS))

    def at(self, rows: int) -> Kernel | None:
        """The kernel for a product of that many rows, or None for the dequantizing path (which also takes no rows)."""
        return None if rows == 0 else self.kernels[min(bisect_left(ROWS, rows), len(ROWS) - 1)]

    def used(self) -> set[Kernel]:
        """All kernels that compute at some number of rows."""
        return {kernel for kernel in self.kernels if kernel is not None}

    def prepare(self, layer: QuantizedLinear, dtype: torch.dtype) -> None:
        """Let the kernels lay out what they need."""
        for kernel in self.used():
            kernel.prepare(layer, dtype)

    def codes(self, layer: QuantizedLinear) -> Tensor | None:
        """The codes (out, in) int8 that a kernel took away, or None where they still stand in the layer."""
        return next((codes for kernel in self.used() if (codes := kernel.codes(layer)) is not None), None)


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
        facts = (scheme, outputs, width, device)
        kernels = tuple(
            kernel
            for kernel in self.kernels
            if all(kernel.suits(scheme, layer.out_features, width, device) for layer in layers)
        )
        if (kernels, *facts, dtype) not in self._known:
            self._known[kernels, *facts, dtype] = _try(kernels, *facts, dtype) if kernels else None
        return self._known[kernels, *facts, dtype]


def product_of(layer: QuantizedLinear) -> tuple[LinearScheme, int]:
    """What a layer computes, whatever is done to its input before: the scheme of the product, and its inputs."""
    scheme = layer.scheme
    activation = None if scheme.activation is None else replace(scheme.activation, route=None, clip=1.0)
    return LinearScheme(scheme.weight, activation), layer.in_features


@torch.no_grad()
def _try(
    kernels: Sequence[Kernel], scheme: LinearScheme, out: int, width: int, device: torch.device, dtype: torch.dtype
) -> Choice | None:
    layer = random_layer(scheme, out, width, device)
    most = random_input(ROWS[-1], width, dtype, device)
    inputs = [most[:rows] for rows in ROWS]
    exact, right = Exact(layer), dict[Kernel, QuantizedLinear]()
    for kernel in kernels:
        ready = deepcopy(layer)
        with suppress(RuntimeError):  # torch offers the operator, but not for this device or size
            ready.use(Choice.always(kernel), dtype)
            tried = [x for x in inputs if _made_for(kernel, x)]
            if all(exact.relative_error(ready(x), x) <= tolerance(kernel, dtype) for x in tried):
                right[kernel] = ready
    choice = Choice(tuple(_fastest(layer, right, x) for x in inputs))
    return choice if choice.used() else None


def _made_for(kernel: Kernel, x: Tensor) -> bool:
    return kernel.most_rows is None or len(x) <= kernel.most_rows


def random_layer(scheme: LinearScheme, out: int, width: int, device: torch.device | str = "cpu") -> QuantizedLinear:
    """A layer with random codes of the whole range, and a static range that clips a few inputs of unit variance."""
    draw = torch.Generator().manual_seed(0)
    assert scheme.weight is not None
    grid, groups = scheme.weight.grid, width // (scheme.weight.group_size or width)
    codes = torch.randint(grid.low, grid.high + 1, (out, width), generator=draw, dtype=torch.int8)
    scale = torch.rand(out, groups, generator=draw) * 0.01 + 0.01
    zero = None
    if not scheme.weight.symmetric:
        zero = torch.randint(grid.low, grid.high + 1, (out, groups), generator=draw, dtype=torch.int8)
    bits = scheme.activation.bits if scheme.activation else 8
    limits = torch.tensor([3 / 2 ** (bits - 1)]), torch.ones(1)
    blank = nn.Linear(width, out, bias=False, device="meta")
    return QuantizedLinear.from_linear(blank, scheme, QuantizedWeight(codes, scale, zero), limits).to(device)


def random_input(rows: int, width: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """(rows, width) normal numbers."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)).to(device, dtype)


class Exact:
    """Some outputs of a layer by its definition, in float64.

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
            scale, zero = token_ranges(x, inputs) if inputs.mode == "dynamic" else self.layer.static_range(x.dtype)
            codes = quantize(x, scale, zero, inputs.grid)
            exact = dequantize(codes, scale.double(), None if zero is None else zero.double())
        expected = exact @ self.weight.T
        if self.layer.bias is not None:
            expected += self.layer.bias[self.outputs].double()
        return float((y - expected).norm() / expected.norm())


def tolerance(kernel: Kernel, dtype: torch.dtype) -> float:
    """Half a unit of the kernel's precision, as numbers rounded once or twice show it in the mean."""
    return max(EXACT, torch.finfo(kernel.precision(dtype)).eps / 2)


def _fastest(plain: QuantizedLinear, right: dict[Kernel, QuantizedLinear], x: Tensor) -> Kernel | None:
    """The fastest of the right kernels, or None for the plain layer, by the best of some calls of each, in turn."""
    layers = {None: plain} | {kernel: layer for kernel, layer in right.items() if _made_for(kernel, x)}
    if len(layers) == 1:
        return None
    plain(x)  # the kernels have run before, and a first call has memory to fetch
    best, spent = dict.fromkeys(layers, float("inf")), 0.0
    for _ in range(REPEATS):
        for kernel, layer in layers.items():
            seconds = _seconds(layer, x)
            best[kernel], spent = min(best[kernel], seconds), spent + seconds
        first, *others = sorted(best, key=best.__getitem__)
        clear = first is not None and all(best[other] > CLEAR * best[first] for other in others)
        if clear or spent > ENOUGH:
            break
    return first


def _seconds(layer: QuantizedLinear, x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    start = time.perf_counter()
    layer(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start
