"""Activation ranges: static ones by search, dynamic ones a token. Rows of sink tokens never enter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sinkquant.quantization.grid import Grid, fake_quantize, scale_and_zero, symmetric_scale
from sinkquant.quantization.scheme import ActivationScheme

STEPS = 40  # candidates of the clip search
ROUNDS = 2  # of the search of both ends
COARSE = 10  # of one that only tells which channels of an input pay
SMALLEST = 0.1  # smallest share of the range that is tried
CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)  # of a token's range, for dynamic ranges
TINY = 1e-30  # an error that is none
SKETCH = 64  # random combinations of outputs that stand for all of them in the clip search


def token_ranges(x: Tensor, scheme: ActivationScheme) -> tuple[Tensor, Tensor | None]:
    """Scale and zero point (…, 1) of every token of `x` (…, width)."""
    if scheme.symmetric:
        high = x.abs().amax(-1, keepdim=True)
        return symmetric_scale(high if scheme.clip == 1 else high * scheme.clip, scheme.grid), None
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)  # together torch takes ten times as long for them
    return scale_and_zero(low * scheme.clip, high * scheme.clip, scheme.grid)


Range = tuple[Tensor, Tensor | None]


def static_range(
    rows: Tensor, grid: Grid, *, search: bool, weight: Tensor | None = None, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Scale and zero point (1,) for all of `rows` (tokens, width).

    With `search`, the share of the full range with the smallest squared error; the error is that of the layer's output
    if `weight` (out, width) is given, estimated on random ±1 combinations of the outputs (Hutchinson's estimator), else
    that of the input itself. Where the grid has a zero point both ends are searched, one after the other: a tail on one
    side only (of a GELU, say) would be cut off with the spike on the other.
    """
    low, high = rows.amin().float().reshape(1), rows.amax().float().reshape(1)
    if not search:
        return scale_and_zero(low, high, grid)
    sketch = None if weight is None else _sketch(weight.float())
    shares = torch.linspace(1.0, SMALLEST, steps).tolist()

    def loss(ends: tuple[float, float]) -> float:
        return _error(rows, scale_and_zero(low * ends[0], high * ends[1], grid), grid, sketch)

    if grid.symmetric:
        best = min(((share, share) for share in shares), key=loss)
    else:
        best = (1.0, 1.0)
        for _ in range(ROUNDS):
            best = min(((best[0], share) for share in (best[1], *shares)), key=loss)
            best = min(((share, best[1]) for share in (best[0], *shares)), key=loss)
    return scale_and_zero(low * best[0], high * best[1], grid)


def dynamic_clip(rows: Tensor, scheme: ActivationScheme, weight: Tensor) -> float:
    """The share of every token's range with the smallest squared error of the outputs rows·weightᵀ (sketched)."""
    sketch = _sketch(weight.float())

    def loss(share: float) -> float:
        clipped = replace(scheme, clip=share)
        return _error(rows, token_ranges(rows, clipped), scheme.grid, sketch)

    return min(CLIPS, key=loss)


def output_error(rows: Tensor, scheme: ActivationScheme, weight: Tensor, *, search: bool) -> float:
    """About the squared error of the outputs rows·weightᵀ, of `rows` (tokens, width) rounded as they would be."""
    if scheme.mode == "static":
        ranges: tuple[Tensor, Tensor | None]
        ranges = static_range(rows, scheme.grid, search=search, weight=weight, steps=COARSE)
    else:
        ranges = token_ranges(rows, scheme)
    return _error(rows, ranges, scheme.grid, _sketch(weight.float()))


def gain_of_own(kinds: Sequence[Tensor], one: Range, own: Sequence[Range], grid: Grid, weight: Tensor) -> float:
    """By how much ranges of their `own` divide the squared error of the outputs rows·weightᵀ, against `one` for all
    `kinds` of rows (tokens, width): the geometric mean over the kinds, so that few rows count as much as many."""
    sketch = _sketch(weight.float())
    total = 0.0
    for rows, mine in zip(kinds, own, strict=True):
        errors = [_error(rows, ranges, grid, sketch) for ranges in (one, mine)]
        total += math.log(max(errors[0], TINY) / max(errors[1], TINY))
    return math.exp(total / len(kinds))


def _error(rows: Tensor, ranges: tuple[Tensor, Tensor | None], grid: Grid, sketch: Tensor | None) -> float:
    error = fake_quantize(rows, *ranges, grid).sub_(rows)
    return float((error if sketch is None else error @ sketch).pow_(2).sum())


def _sketch(weight: Tensor) -> Tensor:
    """(width, SKETCH) random combinations of the rows of `weight` (out, width)."""
    bits = torch.randint(0, 2, (SKETCH, weight.shape[0]), generator=torch.Generator().manual_seed(0))
    return (weight.T @ (bits * 2.0 - 1.0).T.to(weight)) / SKETCH**0.5
