"""Spike units: input channels of a linear that go past the rounding, with their columns of the weight."""

from __future__ import annotations

from torch import Tensor

from sinkquant.hadamard.transform import fast_hadamard, fast_hadamard_transpose


def without_spikes(x: Tensor, index: Tensor) -> Tensor:
    """`x` (…, width) with zeros in the channels `index` (k,)."""
    return x.index_fill(-1, index.long(), 0)


def split_weight(weight: Tensor, index: Tensor, rotated: bool) -> tuple[Tensor, Tensor]:
    """What a `weight` (out, in) is without the channels `index` (k,), and their columns (out, k).

    `rotated`: the weight is one of rotated inputs, x·H, while the channels are those of x.
    """
    plain = fast_hadamard_transpose(weight.double()) if rotated else weight
    rest = without_spikes(plain, index)
    return (fast_hadamard(rest) if rotated else rest).to(weight.dtype), plain.index_select(1, index).to(weight.dtype)


def spread_columns(columns: Tensor, index: Tensor, width: int, rotated: bool) -> Tensor:
    """The other share of the weight, (out, width): `columns` (out, k) in the places `index`, rotated like the rest."""
    placed = columns.new_zeros(len(columns), width).index_copy(1, index.long(), columns)
    return fast_hadamard(placed) if rotated else placed
