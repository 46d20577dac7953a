"""Layers and inputs to try kernels on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sinkquant.quantization.scheme import LinearScheme
from sinkquant.quantization.weights import QuantizedWeight
from sinkquant.runtime.linear import QuantizedLinear


def random_layer(scheme: LinearScheme, out: int, width: int, device: torch.device | str = "cpu") -> QuantizedLinear:
    """A layer with random codes of the whole range, and a static range that clips a few inputs of unit variance."""
    draw = torch.Generator().manual_seed(0)
    assert scheme.weight is not None
    grid, groups = scheme.weight.grid, width // (scheme.weight.group_size or width)
    codes = torch.randint(grid.low, grid.high + 1, (out, width), generator=draw, dtype=torch.int8)
    scale = torch.rand(out, groups, generator=draw) * 0.01 + 0.01
    zero = None
    if not scheme.weight.symmetric:
        zero = torch.randint(grid.low, grid.high + 1, (out, groups), generator=draw, dtype=torch.int8)
    bits = scheme.activation.bits if scheme.activation else 8
    limits = torch.tensor([3 / 2 ** (bits - 1)]), torch.ones(1)
    blank = nn.Linear(width, out, bias=False, device="meta")
    return QuantizedLinear.from_linear(blank, scheme, QuantizedWeight(codes, scale, zero), limits).to(device)


def random_input(rows: int, width: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """(rows, width) normal numbers."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows)).to(device, dtype)
