"""Norms with a bias in front of linears with and without one: folding and scaling keep the function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sinkquant.models.roles import Norm, NormKind
from sinkquant.transforms.norms import fold_norm
from sinkquant.transforms.smooth import scale_norm


class Pair(nn.Module):
    def __init__(self, *biases: bool) -> None:
        super().__init__()
        self.norm, self.linears = nn.LayerNorm(8), nn.ModuleList(nn.Linear(8, 6, bias=bias) for bias in biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return torch.cat([linear(y) for linear in self.linears], dim=-1)


@pytest.mark.parametrize("biases", [(True, True), (True, False), (False,)])
@pytest.mark.parametrize("zero", [False, True])
def test_folding_and_scaling_keep_the_function(biases: tuple[bool, ...], zero: bool) -> None:
    torch.manual_seed(0)
    model, x = Pair(*biases).requires_grad_(False), torch.randn(5, 8)
    model.norm.weight.normal_()
    model.norm.bias.normal_()
    if zero:
        model.norm.weight[2] = 0.0
    expected, places = model(x), [linear.bias is not None for linear in model.linears]
    norm, names = Norm("norm", NormKind.LAYER), tuple(f"linears.{i}" for i in range(len(biases)))
    fold_norm(model, norm, names)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    assert [linear.bias is not None for linear in model.linears] == places
    assert float(model.norm.weight.sort().values[1]) == pytest.approx(1.0)
    scale_norm(model, norm, names, torch.rand(8).double() + 0.5)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
