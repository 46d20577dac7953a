"""Kernels tried on a layer: which are right, and which is fastest for how many rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy

import torch
from torch import Tensor

from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.exact import Exact
from sinkquant.runtime.kernels.samples import random_input
from sinkquant.runtime.kernels.selection import ROWS, Selection
from sinkquant.runtime.linear import QuantizedLinear

REPEATS = 3  # calls of each way, for one slow call may be a hiccup of the machine, but no more where
CLEAR, ENOUGH = 1.3, 0.02  # a kernel is faster than all others by so clear a ratio, or they have taken so many seconds
MARGIN = 1.1  # by which a kernel must be faster than dequantizing
EXACT = 1e-6  # relative error of sums in float32


@torch.no_grad()
def try_kernels(layer: QuantizedLinear, kernels: Sequence[Kernel], dtype: torch.dtype) -> Selection | None:
    """The fastest of the right ways to compute `layer`, or None where no kernel is worth it."""
    exact, device = Exact(layer), layer.weight_scale.device
    inputs = [random_input(rows, layer.in_features, dtype, device) for rows in ROWS]
    ways: dict[Kernel | None, QuantizedLinear] = {None: layer}
    for kernel in kernels:
        ready = _prepared(layer, kernel, dtype)
        if ready and all(_is_right(kernel, ready, x, exact) for x in inputs if _is_for(kernel, x)):
            ways[kernel] = ready
    choice = Selection(tuple(_fastest({way: ways[way] for way in ways if _is_for(way, x)}, x) for x in inputs))
    return choice if choice.used() else None


def _is_for(kernel: Kernel | None, x: Tensor) -> bool:
    return kernel is None or kernel.most_rows is None or len(x) <= kernel.most_rows


def _prepared(layer: QuantizedLinear, kernel: Kernel, dtype: torch.dtype) -> QuantizedLinear | None:
    """A copy of `layer` for `kernel`, or None where torch has the operator, but not for this device."""
    ready = deepcopy(layer)
    with suppress(RuntimeError):
        ready.use(Selection.always(kernel), dtype)
        return ready
    return None


def _is_right(kernel: Kernel, ready: QuantizedLinear, x: Tensor, exact: Exact) -> bool:
    with suppress(RuntimeError):  # torch has the operator, but not for this device or size
        return exact.relative_error(ready(x), x) <= tolerance(kernel, x.dtype)
    return False


def tolerance(kernel: Kernel, dtype: torch.dtype) -> float:
    """Half a unit of the kernel's precision, as numbers rounded once or twice show it in the mean."""
    return max(EXACT, torch.finfo(kernel.precision(dtype)).eps / 2)


def _fastest(ways: dict[Kernel | None, QuantizedLinear], x: Tensor) -> Kernel | None:
    """By the best time of some calls of each, in turn; None is dequantizing. The kernels have run before."""
    if len(ways) == 1:
        return None
    ways[None](x)  # a first call has memory to fetch
    best, spent = dict.fromkeys(ways, float("inf")), 0.0
    for _ in range(REPEATS):
        for kernel, layer in ways.items():
            seconds = _seconds(layer, x)
            best[kernel], spent = min(best[kernel], seconds), spent + seconds
        first, *others = sorted(best, key=best.__getitem__)
        clear = first is not None and all(best[other] > CLEAR * best[first] for other in others)
        if clear or spent > ENOUGH:
            break
    return min(best, key=lambda kernel: best[kernel] * (1 if kernel is None else MARGIN))


def _seconds(layer: QuantizedLinear, x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    start = time.perf_counter()
    layer(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start
