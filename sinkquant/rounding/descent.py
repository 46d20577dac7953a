"""Improve rounded weights by coordinate descent on the layer's output error, codes and scales in turn.

The loss is tr (W − Ŵ)·H·(W − Ŵ)ᵀ. With R = (W − Ŵ)·H, the best value of input j, all others fixed, is Ŵ_j + R_j / H_jj,
rounded to the grid; the best step of a group's scale is R_g·q_g / (q_g·H_gg·q_gᵀ). Neither can raise the loss
(QuantEase, arXiv 2309.01885, descends over codes in this way).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sinkquant.quantization.grid import dequantize, quantize
from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import QuantizedWeight, expand_and_dequantize

BLOCK = 128  # inputs whose changes are passed on to the rest together


def refine(
    weight: Tensor, start: QuantizedWeight, hessian: Tensor, scheme: WeightScheme, *, damping: float, sweeps: int
) -> QuantizedWeight:
    """Better codes and scales for `weight` (out, in) under the damped `hessian` (in, in)."""
    if not sweeps:
        return start
    h = hessian.to(torch.float32, copy=True)
    h.diagonal().add_(damping * hessian.diagonal().mean().float().clamp_min(1e-12))
    codes, scale = start.codes.float(), start.scale.clone()
    zero = torch.zeros_like(scale) if start.zero is None else start.zero.float()
    for _ in range(sweeps):
        _descend_scales(weight, codes, scale, zero, h)
        _descend_codes(weight, codes, scale, zero, h, scheme)
    return QuantizedWeight(codes.to(torch.int8), scale, start.zero)


def _residual(weight: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, h: Tensor) -> Tensor:
    return (weight.float() - expand_and_dequantize(codes, scale, zero)) @ h  # (out, in)


def _descend_scales(weight: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, h: Tensor) -> None:
    """Exact line search over the scale of one group after the other; `scale` is changed in place."""
    size = codes.shape[1] // scale.shape[1]
    residual = _residual(weight, codes, scale, zero, h)
    for g in range(scale.shape[1]):
        part = slice(g * size, (g + 1) * size)
        q = codes[:, part] - zero[:, g : g + 1]
        curvature = ((q @ h[part, part]) * q).sum(1)
        step = (residual[:, part] * q).sum(1) / curvature.clamp_min(1e-12)
        step = torch.where(scale[:, g] + step > 0.5 * scale[:, g], step, torch.zeros_like(step))
        scale[:, g] += step
        residual -= (step[:, None] * q) @ h[part]


def _descend_codes(weight: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, h: Tensor, scheme: WeightScheme) -> None:
    """One sweep over the inputs; `codes` is changed in place."""
    size = codes.shape[1] // scale.shape[1]
    residual = _residual(weight, codes, scale, zero, h)
    for begin in range(0, codes.shape[1], BLOCK):
        end = min(begin + BLOCK, codes.shape[1])
        local = residual[:, begin:end]
        changes = torch.zeros_like(local)
        for i in range(end - begin):
            j = begin + i
            s, z = scale[:, j // size], zero[:, j // size]
            old = dequantize(codes[:, j], s, z)
            q = quantize(old + local[:, i] / h[j, j], s, z, scheme.grid)
            changes[:, i] = dequantize(q, s, z) - old
            codes[:, j] = q
            local[:, i + 1 :] -= changes[:, i : i + 1] * h[j, j + 1 : end]  # of inputs still to come
        residual[:, end:] -= changes @ h[begin:end, end:]
