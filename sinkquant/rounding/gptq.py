"""GPTQ: round one input after the other and let the inputs that follow take up the error.

Frantar et al. 2023 (arXiv 2210.17323); activation order as a fixed permutation, groups fixed before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sinkquant.quantization.grid import dequantize, quantize
from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import QuantizedWeight, weight_ranges
from sinkquant.rounding.descent import refine
from sinkquant.rounding.method import Settings
from sinkquant.walk.statistics import Hessian, Statistic

BLOCK = 128  # columns that are rounded before the error is passed on to the rest


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped Hessian (in, in), float64.

    Damping starts at `damping` × the mean of the diagonal and grows until the factorisation succeeds.
    """
    damped = hessian.to(torch.float64, copy=True)
    diagonal = damped.diagonal().clone()
    mean = diagonal.mean().clamp_min(1e-12)
    for attempt in range(8):
        damped.diagonal().copy_(diagonal + mean * damping * 10**attempt)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            inverse = torch.cholesky_inverse(factor)
            del factor
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed:
                return upper
    if not diagonal.isfinite().all():
        raise ValueError("its inputs are not finite on this text, take other text with --calibration")
    raise ValueError("its Hessian has no inverse, set a larger weights.damping, for example 0.01")


def gptq(
    weight: Tensor,
    hessian: Tensor,
    scheme: WeightScheme,
    *,
    damping: float = 0.01,
    act_order: bool = True,
    search: bool = True,
) -> QuantizedWeight:
    """Codes of `weight` (out, in) that keep X·Wᵀ for inputs with XᵀX = `hessian` (in, in).

    Inputs that never occur are rounded to nearest. Raises ValueError where the Hessian cannot be factorised.
    """
    w = weight.float().clone()
    dead = hessian.diagonal() <= 0
    diagonal = torch.where(dead, 1.0, hessian.diagonal())
    scale, zero = weight_ranges(w, scheme, search=search, importance=diagonal)
    size = scheme.group_size or w.shape[1]
    group = torch.arange(w.shape[1], device=w.device) // size  # group of every input

    order = torch.argsort(diagonal, descending=True, stable=True) if act_order else torch.arange(len(dead))
    order = order.to(w.device)
    ordered = hessian[order[:, None], order]
    ordered.diagonal().copy_(diagonal[order])
    upper = inverse_factor(ordered, damping).float()
    del ordered
    w, group = w[:, order], group[order]
    codes = torch.empty_like(w)
    for start in range(0, w.shape[1], BLOCK):
        end = min(start + BLOCK, w.shape[1])
        block, factor = w[:, start:end], upper[start:end, start:end]
        errors = torch.empty_like(block)
        for i in range(end - start):
            s, z = scale[:, group[start + i]], zero[:, group[start + i]]
            q = quantize(block[:, i], s, z, scheme.grid)
            errors[:, i] = (block[:, i] - dequantize(q, s, z)) / factor[i, i]
            block[:, i + 1 :] -= errors[:, i : i + 1] * factor[i, i + 1 :]
            codes[:, start + i] = q
        w[:, end:] -= errors @ upper[start:end, end:]
    result = torch.empty_like(codes)
    result[:, order] = codes
    return QuantizedWeight(result.to(torch.int8), scale, None if scheme.symmetric else zero.to(torch.int8))


@dataclass(frozen=True)
class GptqMethod:
    """See `Method`; coordinate descent over codes and scales may follow (`weights.sweeps`)."""

    needs: Mapping[str, Callable[[], Statistic]] = field(default_factory=lambda: {"hessian": Hessian})
    passes: float = 3.4  # measured on SmolLM2

    def round(
        self, weight: Tensor, scheme: WeightScheme, values: Mapping[str, Tensor], settings: Settings
    ) -> QuantizedWeight:
        """Codes of `weight` (out, in) under the Hessian (in, in) of its inputs."""
        hessian, damping, search = values["hessian"], settings.damping, settings.clip == "mse"
        start = gptq(weight, hessian, scheme, damping=damping, act_order=settings.act_order, search=search)
        return refine(weight, start, hessian, scheme, damping=damping, sweeps=settings.sweeps)


GPTQ = GptqMethod()
