"""Massive activations: tokens and channels that stand out in the residual stream."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILE = 0.1  # nine of ten tokens exceed it: "on nearly every token"


def token_peaks(x: Tensor) -> tuple[Tensor, Tensor]:
    """Largest magnitude of every token and its channel: (..., T, D) -> (..., T) float32 and (..., T) int64."""
    peaks = x.float().abs().max(dim=-1)
    return peaks.values, peaks.indices


def token_ratio(peaks: Tensor) -> Tensor:
    """Peaks (..., T) over the median peak of their sequence: the ratio in which outlier tokens are stated."""
    return peaks / peaks.median(dim=-1, keepdim=True).values.clamp_min(1e-12)


def channel_ratio(x: Tensor) -> Tensor:
    """For every channel the ratio to the token's median channel that nine of ten tokens exceed: (N, T, D) -> (D,)."""
    magnitude = x.float().abs().reshape(-1, x.shape[-1])
    ratio = magnitude / magnitude.median(dim=-1, keepdim=True).values.clamp_min(1e-12)
    return torch.quantile(ratio, QUANTILE, dim=0)
