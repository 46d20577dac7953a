"""Which channels of an input are its spike units, and how many of them pay."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

MOST = 2  # units a linear, where their number is found: four bring no more (ViT-Tiny, SmolLM2)
PRICE = 1.1  # a unit pays where it divides the squared error of the outputs by more than that


def choose_spikes(peaks: Tensor, most: int, error: Callable[[Tensor], float] | None) -> Tensor:
    """Indices (k,) int64, k ≤ `most`, of the channels with the largest magnitudes `peaks` (width,), in their order.

    With an `error` of such channels (squared, of the linear's outputs) as many as pay, doubling from one; without it
    all of them.
    """
    order = peaks.argsort(descending=True)[: min(most, len(peaks) - 1)]
    if error is None:
        return order.sort().values
    sizes = {0, len(order)} | {2**power for power in range(len(order).bit_length())}
    best = min(sorted(sizes), key=lambda size: error(order[:size]) * PRICE**size)
    return order[:best].sort().values
