"""Weights that hold NaN or infinity are refused before they reach a scale or a Hessian."""

from __future__ import annotations

import torch
from torch import nn

from sinkquant.errors import SinkquantError


def check_finite(model: nn.Module) -> None:
    """Raise SinkquantError that names the first parameter of `model` with NaN or infinity in it.

    Buffers are left out: attention masks hold infinity on purpose.
    """
    for name, parameter in model.named_parameters():
        values = parameter.detach()
        # Both extremes are finite exactly when all values are: NaN wins either comparison. Needs no copy of the weight.
        if values.is_floating_point() and values.numel() and not torch.stack(torch.aminmax(values)).isfinite().all():
            bad = int((~values.isfinite()).sum())
            raise SinkquantError(
                f"{name} holds NaN or infinity in {bad:,} of {values.numel():,} values: get a clean copy of the model."
            )
