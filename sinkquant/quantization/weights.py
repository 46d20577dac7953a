"""Weight ranges and rounding to nearest. Shapes: weight (out, in), scale and zero (out, groups)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sinkquant.quantization.grid import dequantize, quantize, scale_and_zero
from sinkquant.quantization.scheme import WeightScheme

ROWS = 8192  # output rows rounded at a time


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes (out, in) int8, scale (out, groups) float32, zero (out, groups) int8 or None."""

    codes: Tensor
    scale: Tensor
    zero: Tensor | None

    def dequantized(self) -> Tensor:
        """The weight (out, in) float32 that the codes stand for."""
        return expand_and_dequantize(self.codes, self.scale, self.zero)

    def integers(self) -> Tensor:
        """q − z (out, in) float32, for one scale a channel: what that scale multiplies."""
        codes = self.codes.float()
        return codes if self.zero is None else codes - self.zero.float()


def clip_candidates(bits: int) -> list[float]:
    """Shares of the full range that a clip search tries: coarse grids gain from a narrower range, 8 bits hardly."""
    return torch.linspace(1.0, 0.85, 6).tolist() if bits >= 8 else torch.linspace(1.0, 0.4, 40).tolist()


def expand_and_dequantize(codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """(q − z)·s with one scale a group of consecutive inputs."""
    out, width = codes.shape
    grouped = codes.reshape(out, scale.shape[1], -1)
    z = None if zero is None else zero.to(scale.dtype)[..., None]
    return dequantize(grouped, scale[..., None], z).reshape(out, width)


def grouped(weight: Tensor, group_size: int | None) -> Tensor:
    """(out, groups, size) view of a weight."""
    return weight.reshape(weight.shape[0], -1, group_size or weight.shape[1])


def weight_ranges(
    weight: Tensor, scheme: WeightScheme, *, search: bool, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scale and zero point (out, groups) of every channel or group.

    With `search`, the share of the range with the smallest squared error, each input weighed by `importance` (in,)
    (the diagonal of the Hessian: how strongly an error on that input shows in the output).
    """
    w = grouped(weight.float(), scheme.group_size)  # (out, groups, size)
    low, high = w.amin(-1), w.amax(-1)
    scale, zero = scale_and_zero(low, high, scheme.grid)
    if not search:
        return scale, zero
    heavy = None if importance is None else importance.float().reshape(1, w.shape[1], -1)
    best = torch.full_like(scale, float("inf"))
    for share in clip_candidates(scheme.bits):
        s, z = scale_and_zero(low * share, high * share, scheme.grid)
        error = dequantize(quantize(w, s[..., None], z[..., None], scheme.grid), s[..., None], z[..., None]).sub_(w)
        loss = (error.pow_(2) if heavy is None else error.pow_(2).mul_(heavy)).sum(-1)
        better = loss < best
        best = torch.where(better, loss, best)
        scale, zero = torch.where(better, s, scale), torch.where(better, z, zero)
    return scale, zero


def round_to_nearest(weight: Tensor, scheme: WeightScheme, *, search: bool) -> QuantizedWeight:
    """Every weight to its nearest code. Rows are independent and are taken some at a time, to spare memory."""
    parts = [_round_rows(rows, scheme, search) for rows in weight.split(ROWS)]
    zero = None if scheme.symmetric else torch.cat([part.zero for part in parts if part.zero is not None])
    return QuantizedWeight(torch.cat([p.codes for p in parts]), torch.cat([p.scale for p in parts]), zero)


def _round_rows(weight: Tensor, scheme: WeightScheme, search: bool) -> QuantizedWeight:
    scale, zero = weight_ranges(weight, scheme, search=search)
    w = grouped(weight.float(), scheme.group_size)
    codes = quantize(w, scale[..., None], zero[..., None], scheme.grid).reshape(weight.shape).to(torch.int8)
    return QuantizedWeight(codes, scale, None if scheme.symmetric else zero.to(torch.int8))
