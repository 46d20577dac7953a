"""GPTQ: round one input after the other and let the inputs that follow take up the error.

Frantar et al. 2023 (arXiv 2210.17323); activation order as a fixed permutation, groups fixed before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sinkquant.quantization.grid import dequantize, quantize
from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import QuantizedWeight, weight_ranges

BLOCK = 128  # columns that are rounded before the error is passed on to the rest


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the inverse of the damped Hessian (in, in), float64.

    Damping starts at `damping` × the mean of the diagonal and grows until the factorisation succeeds.
    """
    h = hessian.double()
    mean = h.diagonal().mean().clamp_min(1e-12)
    for attempt in range(8):
        damped = h + torch.eye(h.shape[0], dtype=h.dtype, device=h.device) * mean * damping * 10**attempt
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
            if not failed:
                return upper
    raise ValueError("the Hessian is not positive definite even with heavy damping")


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
    hessian = hessian.clone()
    hessian[dead, dead] = 1
    scale, zero = weight_ranges(w, scheme, search=search, importance=hessian.diagonal())
    size = scheme.group_size or w.shape[1]
    group = torch.arange(w.shape[1], device=w.device) // size  # group of every input

    order = torch.argsort(hessian.diagonal(), descending=True, stable=True) if act_order else torch.arange(len(dead))
    order = order.to(w.device)
    upper = inverse_factor(hessian[order][:, order], damping).float()
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
