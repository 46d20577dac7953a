"""Kernels tried on a layer: which are right, and which is fastest for how many rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy

import torch
from torch import Tensor

from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.choice import ROWS, Choice
from sinkquant.runtime.kernels.exact import Exact
from sinkquant.runtime.kernels.samples import random_input
from sinkquant.runtime.linear import QuantizedLinear

REPEATS = 3  # calls of each way, for one slow call may be a hiccup of the machine, but no more where
CLEAR, ENOUGH = 1.3, 0.02  # a kernel is faster than all others by so clear a ratio, or they have taken so many seconds
MARGIN = 1.1  # by which a kernel must be faster than dequantizing
EXACT = 1e-6  # relative error of sums in float32

Times = dict[Kernel | None, float]


@torch.no_grad()
def try_kernels(layer: QuantizedLinear, kernels: Sequence[Kernel], dtype: torch.dtype) -> Choice | None:
    """The fastest of the right ways to compute `layer`, or None where no kernel is worth it."""
    exact, times = Exact(layer), list[Times]()
    most = random_input(ROWS[-1], layer.in_features, dtype, layer.weight_scale.device)
    right = {kernel: ready for kernel in kernels if (ready := _prepared(layer, kernel, dtype)) is not None}
    for x in (most[:rows] for rows in ROWS):
        able = {kernel: ready for kernel, ready in right.items() if len(x) <= (kernel.most_rows or len(x))}
        for kernel in [kernel for kernel, ready in able.items() if not _is_right(kernel, ready, x, exact)]:
            del able[kernel], right[kernel]
            for earlier in times:
                earlier.pop(kernel, None)
        times.append(_times(layer, able, x))
    choice = Choice(tuple(_fastest(ways) for ways in times))
    return choice if choice.used() else None


def _fastest(times: Times) -> Kernel | None:
    return min(times, key=lambda kernel: times[kernel] * (1 if kernel is None else MARGIN))


def _prepared(layer: QuantizedLinear, kernel: Kernel, dtype: torch.dtype) -> QuantizedLinear | None:
    """A copy of `layer` for `kernel`, or None where torch has the operator, but not for this device."""
    ready = deepcopy(layer)
    with suppress(RuntimeError):
        ready.use(Choice.always(kernel), dtype)
        return ready
    return None


def _is_right(kernel: Kernel, ready: QuantizedLinear, x: Tensor, exact: Exact) -> bool:
    with suppress(RuntimeError):  # torch has the operator, but not for this device or size
        return exact.relative_error(ready(x), x) <= tolerance(kernel, x.dtype)
    return False


def tolerance(kernel: Kernel, dtype: torch.dtype) -> float:
    """Half a unit of the kernel's precision, as numbers rounded once or twice show it in the mean."""
    return max(EXACT, torch.finfo(kernel.precision(dtype)).eps / 2)


def _times(plain: QuantizedLinear, able: dict[Kernel, QuantizedLinear], x: Tensor) -> Times:
    """The best time of some calls of each layer, in turn; None is dequantizing. The kernels have run before."""
    if not able:
        return {None: 0.0}
    plain(x)  # a first call has memory to fetch
    layers: Mapping[Kernel | None, QuantizedLinear] = {None: plain} | able
    best, spent = dict.fromkeys(layers, float("inf")), 0.0
    for _ in range(REPEATS):
        for kernel, layer in layers.items():
            seconds = _seconds(layer, x)
            best[kernel], spent = min(best[kernel], seconds), spent + seconds
        first, *others = sorted(best, key=best.__getitem__)
        clear = first is not None and all(best[other] > CLEAR * best[first] for other in others)
        if clear or spent > ENOUGH:
            break
    return best


def _seconds(layer: QuantizedLinear, x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    start = time.perf_counter()
    layer(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start
