"""Coordinate descent never raises the loss that it descends, and lowers it after GPTQ."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from sinkquant.quantization.scheme import WeightScheme
from sinkquant.rounding.descent import refine
from sinkquant.rounding.gptq import gptq


def loss(weight: torch.Tensor, other: torch.Tensor, hessian: torch.Tensor) -> float:
    error = (weight - other).double()
    return float(((error @ hessian.double()) * error).sum())


@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_every_sweep_helps(group: int | None, symmetric: bool) -> None:
    width = 160  # more than one block of inputs
    x = torch.randn(3000, width) @ (torch.randn(width, width) * torch.linspace(0.2, 2, width))
    weight, hessian = torch.randn(16, width), x.T @ x / len(x)
    scheme = WeightScheme(3, symmetric, group)
    start = gptq(weight, hessian, scheme, damping=1e-4)
    losses = [
        loss(weight, refine(weight, start, hessian, scheme, damping=1e-9, sweeps=n).dequantized(), hessian)
        for n in range(4)
    ]
    assert losses[0] == loss(weight, start.dequantized(), hessian)
    assert all(after <= before * 1.0001 for before, after in pairwise(losses))
    assert losses[1] < 0.97 * losses[0]


def test_inputs_that_never_occur_are_rounded_as_if_alone() -> None:
    weight, hessian = torch.randn(16, 64), torch.zeros(64, 64)
    start = gptq(weight, hessian, WeightScheme(4))
    after = refine(weight, start, hessian, WeightScheme(4), damping=0.1, sweeps=2)
    errors = [float((weight - made.dequantized()).pow(2).sum()) for made in (start, after)]
    assert errors[1] <= errors[0]  # also: no 0 / 0
