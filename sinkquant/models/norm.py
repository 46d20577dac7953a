"""What a norm does with its weight, found by experiment."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sinkquant.models.roles import NormKind


def norm_kind(module: nn.Module) -> NormKind | None:
    """The style of a norm, found by experiment on random input; None if the module is no norm over the last axis."""
    weight = getattr(module, "weight", None)
    if next(module.children(), None) is not None or not isinstance(weight, Tensor) or weight.dim() != 1:
        return None
    x = torch.randn(3, weight.numel(), generator=torch.Generator().manual_seed(0)).to(weight)
    try:
        with torch.no_grad():
            y, gamma, x = module(x).double(), weight.double(), x.double()
    except Exception:  # norms over heads and with gates want other inputs, and each says so by another error
        return None
    if y.shape != x.shape:
        return None
    unit = x / x.pow(2).mean(-1, keepdim=True).sqrt()
    centred = x - x.mean(-1, keepdim=True)
    layer = centred / centred.pow(2).mean(-1, keepdim=True).sqrt() * gamma
    bias = getattr(module, "bias", None)
    layer = layer + bias.double() if isinstance(bias, Tensor) else layer
    styles = {NormKind.RMS: unit * gamma, NormKind.RMS_OFFSET: unit * (1 + gamma), NormKind.LAYER: layer}
    tolerance = 2e-2 if weight.dtype in (torch.bfloat16, torch.float16) else 1e-3
    for kind, expected in styles.items():
        if (y - expected).norm() <= tolerance * expected.norm() and y.norm() > 0:
            return kind
    return None


def gain(module: nn.Module, kind: NormKind) -> Tensor:
    """What the norm multiplies its normalised input by, (width,) float64: γ, or 1 + γ for offset norms."""
    weight = module.weight.detach().double()  # type: ignore[union-attr, operator]
    return 1 + weight if kind is NormKind.RMS_OFFSET else weight


def clear(module: nn.Module, kind: NormKind) -> None:
    """Make the norm multiply by one."""
    with torch.no_grad():
        module.weight.fill_(0.0 if kind is NormKind.RMS_OFFSET else 1.0)  # type: ignore[union-attr, operator]


def scale_output(module: nn.Module, kind: NormKind, d: Tensor) -> None:
    """The norm's output ← output·d, for d (width,); a bias is a part of it."""
    weight, bias = gain(module, kind) * d, getattr(module, "bias", None)
    with torch.no_grad():
        module.weight.copy_(weight - 1 if kind is NormKind.RMS_OFFSET else weight)  # type: ignore[union-attr, operator]
        if isinstance(bias, Tensor):
            bias.copy_(bias.double() * d)


def channel_scale(module: nn.Module) -> nn.Parameter | None:
    """The factors (width,) of a module that multiplies every channel by its own (layer scale), found by experiment."""
    parameters = list(module.parameters())
    if len(parameters) != 1 or parameters[0].dim() != 1:
        return None
    (factors,) = parameters
    x = torch.randn(3, factors.numel(), generator=torch.Generator().manual_seed(0)).to(factors)
    with torch.no_grad():
        return factors if torch.equal(module(x), x * factors) else None
