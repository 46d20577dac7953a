"""Weights that hold NaN or infinity are refused before they reach a scale, a Hessian or an answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError


def check_finite(model: nn.Module) -> None:
    """Raise SinkquantError that names the first parameter of `model` with NaN or infinity in it.

    Buffers are left out: attention masks hold infinity on purpose.
    """
    for name, parameter in model.named_parameters():
        refuse_not_finite(name, parameter.detach(), "get a clean copy of the model")


def refuse_not_finite(name: str, values: Tensor, remedy: str) -> None:
    """Raise SinkquantError where `values` hold NaN or infinity; integers and tensors without memory pass."""
    if not values.is_floating_point() or not values.numel() or values.is_meta:
        return
    # Both extremes are finite exactly when all values are: NaN wins either comparison. Needs no copy of the weight.
    if not torch.stack(torch.aminmax(values)).isfinite().all():
        bad = int((~values.isfinite()).sum())
        raise SinkquantError(f"{name} holds NaN or infinity in {bad:,} of {values.numel():,} values: {remedy}.")
