"""Rows beyond a static range stay in float, whatever computes the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from sinkquant.quantization.grid import Grid, fake_quantize
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme, WeightScheme
from sinkquant.recipes import load_recipe
from sinkquant.runtime.kernels.int8 import Int8Kernel
from sinkquant.runtime.kernels.samples import random_layer
from sinkquant.runtime.kernels.selection import Selection
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.routed_rows import RoutedRows
from sinkquant.runtime.routing import outlier_rows, routing_limit


def make(route: float | None, *, rotate: bool = False) -> QuantizedLinear:
    return random_layer(LinearScheme(WeightScheme(8), ActivationScheme(8, "static", route=route), rotate), 24, 64)


def inputs(layer: QuantizedLinear) -> Tensor:
    """Rows of half the range, of 1.9 and 2.1 times the range, and a huge one, as a batch of two sequences."""
    reach = float(layer.input_scale) * 127
    x = torch.rand(4, 64) * 0.5 * reach
    x[1, 3], x[2, 3], x[3, 5] = 1.9 * reach, -2.1 * reach, 1e4 * reach
    return x.reshape(2, 2, 64)


@pytest.mark.parametrize("kernel", [False, True])
def test_rows_beyond_the_limit_are_computed_in_float(kernel: bool) -> None:
    layer = make(2.0)
    if kernel:
        layer.use(Selection.always(Int8Kernel()), torch.float32)
    x = inputs(layer)
    weight = layer.dequantized_weight(torch.float32)
    rounded = fake_quantize(x, layer.input_scale, None, Grid(8))
    expected = torch.stack([linear(rounded[0], weight), linear(x[1], weight)])
    y = layer(x)
    assert layer(x[:0]).shape == (0, 2, 24)
    assert torch.allclose(y, expected, rtol=1e-5, atol=1e-5 * float(expected[0].abs().max()))
    assert not torch.allclose(y[1], linear(rounded[1], weight), rtol=1e-2)


@pytest.mark.parametrize("kernel", [False, True])
def test_without_a_factor_nothing_is_routed(kernel: bool) -> None:
    layer = make(None)
    assert not layer.routes
    if kernel:
        layer.use(Selection.always(Int8Kernel()), torch.float32)
    x = inputs(layer)
    rounded = fake_quantize(x, layer.input_scale, None, Grid(8))
    assert torch.allclose(layer(x), linear(rounded, layer.dequantized_weight(torch.float32)), rtol=1e-5, atol=1e-4)


def test_ordinary_rows_are_those_of_the_layer_without_routing() -> None:
    x = torch.randn(5, 64) * 0.5
    assert torch.equal(make(2.0)(x), make(None)(x))


@pytest.mark.parametrize("zero", [None, torch.tensor([-128.0]), torch.tensor([40.0])])
def test_the_limit_is_the_farther_end_of_the_grid(zero: Tensor | None) -> None:
    grid, scale = Grid(8, symmetric=zero is None), torch.tensor([0.1])
    ends = fake_quantize(torch.tensor([-1e9, 1e9]), scale, zero, grid).abs()
    reach = float(ends.max() if zero is not None else ends.min())  # a symmetric grid has one code more below zero
    assert float(routing_limit(scale, zero, grid, 2.0)) == pytest.approx(2 * reach)
    rows = outlier_rows(torch.tensor([[0.0, 1.99 * reach], [-2.01 * reach, 0.0]]), scale, zero, grid, 2.0)
    assert rows.tolist() == [False, True]


@pytest.mark.parametrize("rotate", [False, True])
def test_the_counter_sees_what_the_layer_routes(rotate: bool) -> None:
    model = torch.nn.ModuleList([make(2.0, rotate=rotate), make(None)])
    x = inputs(model[0])  # type: ignore[arg-type]
    expected = int(model[0].routed_rows(model[0].prepare_input(x)).sum())  # type: ignore[operator]
    with RoutedRows(model) as rows:
        for layer in model:
            layer(x)
    assert (rows.routed, rows.seen) == (expected, 4)
    assert rows.share == expected / 4
    model[0](x)
    assert rows.seen == 4  # it is closed
    with RoutedRows(model[1]) as rows:
        model[1](x)
    assert rows.share is None


def test_the_scheme_keeps_the_factor() -> None:
    scheme = make(2.5).scheme
    assert LinearScheme.from_dict(scheme.to_dict()) == scheme
    old = scheme.to_dict()
    del old["activation"]["route"]  # checkpoints from before there was routing
    assert scheme.activation is not None
    assert LinearScheme.from_dict(old) == replace(scheme, activation=replace(scheme.activation, route=None))


def test_the_recipe_asks_for_it() -> None:
    assert load_recipe("w8a8-static").activations.route == 2
    assert load_recipe("w8a8-static", ["activations.route=null"]).activations.route is None


def test_a_rotated_layer_that_routes_compiles_whole() -> None:
    torch._dynamo.reset()
    layer = make(2.0, rotate=True)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for x in (inputs(layer), torch.randn(3, 64)):
        assert torch.equal(compiled(x), layer(x))
