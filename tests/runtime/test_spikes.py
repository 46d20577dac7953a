"""Spike units go past the rounding exactly, whatever computes the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.quantization.activations import static_range, token_ranges
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme, WeightScheme
from sinkquant.quantization.weights import round_to_nearest
from sinkquant.runtime.kernels.base import Kernel
from sinkquant.runtime.kernels.int8 import Int8Kernel
from sinkquant.runtime.kernels.int8pack import Int8PackKernel
from sinkquant.runtime.kernels.onednn import OneDnnKernel
from sinkquant.runtime.kernels.selection import Selection
from sinkquant.runtime.kernels.use import use_kernels
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.spikes import split_weight, without_spikes

WIDTH, OUT = 64, 24
SPIKES = torch.tensor([3, 40])
STATIC = ActivationScheme(8, "static")
INT8 = LinearScheme(WeightScheme(8), STATIC, spikes=2)
SCHEMES = {
    "int8": INT8,
    "4 bits": replace(INT8, weight=WeightScheme(4, group_size=16), activation=ActivationScheme(4, "static")),
    "zero points": LinearScheme(
        WeightScheme(4, symmetric=False), ActivationScheme(8, "static", symmetric=False), spikes=2
    ),
    "dynamic": replace(INT8, activation=ActivationScheme(8, "dynamic")),
    "routed": replace(INT8, activation=replace(STATIC, route=2.0)),
    "rotated": replace(INT8, rotate=True),
    "rotated and centered": replace(INT8, rotate=True, center=True),
    "centered": replace(INT8, center=True),
    "float weight": replace(INT8, weight=None),
    "float weight, rotated": replace(INT8, weight=None, rotate=True),
}


class Made(NamedTuple):
    layer: QuantizedLinear
    weight: Tensor  # (OUT, WIDTH) float64, of inputs that are not rotated
    bias: Tensor
    offset: Tensor | None

    def expected(self, x: Tensor) -> Tensor:
        """The formula, products in float64; which code a number gets is decided in the dtype of `x`."""
        layer, scheme = self.layer, self.layer.scheme
        rest = x.index_fill(-1, SPIKES, 0)
        rest = fast_hadamard(rest) if scheme.rotate else rest
        rest = rest if self.offset is None else rest - self.offset.to(x.dtype)
        activation = scheme.activation
        assert activation is not None
        if activation.mode == "dynamic":
            rounded = fake_quantize(rest, *token_ranges(rest, activation), activation.grid)
        else:
            scale, zero = layer.static_range(x)
            rounded = fake_quantize(rest, scale, zero, activation.grid)
            if activation.route is not None:
                rows = rest.abs().amax(-1, keepdim=True) > activation.route * 127 * scale
                assert not rows.any()
        without = self.weight.index_fill(1, SPIKES, 0)
        without = fast_hadamard(without) if scheme.rotate else without
        whole = fast_hadamard(self.weight) if scheme.rotate else self.weight
        codes = whole if scheme.weight is None else layer.quantized_weight().dequantized().double()
        y = rounded.double() @ codes.T + x.double()[..., SPIKES] @ self.weight[:, SPIKES].T + self.bias
        return y if self.offset is None else y + self.offset.double() @ without.T


def draw(rows: int) -> Tensor:
    """Normal numbers, and two channels with spikes: one on every row, one on a single row."""
    x = torch.randn(rows, WIDTH)
    x[:, 3] *= 50
    x[rows // 2, 40] = 900
    return x


def make(scheme: LinearScheme, weight: Tensor | None = None) -> Made:
    module = nn.Linear(WIDTH, OUT).requires_grad_(False)
    if weight is not None:
        module.weight.copy_(weight)
    plain = module.weight.double()
    if scheme.rotate:
        module.weight.copy_(fast_hadamard(plain))
    rest, _ = split_weight(module.weight, SPIKES, scheme.rotate)
    rows = without_spikes(draw(256), SPIKES)
    rows = fast_hadamard(rows) if scheme.rotate else rows
    offset = 0.3 + rows.mean(0) if scheme.center else None
    codes, ranges = None, None
    if scheme.weight is not None:
        codes = round_to_nearest(rest, scheme.weight, search=True)
    if scheme.activation is not None and scheme.activation.mode == "static":
        seen = rows if offset is None else rows - offset
        ranges = static_range(seen, scheme.activation.grid, search=True)
    layer = QuantizedLinear.from_linear(module, scheme, codes, ranges, offset, SPIKES)
    return Made(layer, plain, module.bias.double(), offset)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(50, WIDTH), (2, 25, WIDTH)], ids=str)
def test_the_layer_is_its_formula(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    seed = torch.seed()
    made = make(SCHEMES[name])
    x = draw(50).to(dtype).reshape(shape)
    found, expected = made.layer(x), made.expected(x)
    assert found.dtype == dtype
    assert (found - expected).norm() <= (1e-5 if dtype == torch.float32 else 1e-2) * expected.norm(), f"seed {seed}"


@pytest.mark.parametrize("name", SCHEMES)
def test_they_are_exact_however_large(name: str) -> None:
    made, x = make(SCHEMES[name]), torch.zeros(1, WIDTH)
    nothing = made.layer(x)
    x[0, 3] = 1e4
    expected = 1e4 * made.weight[:, 3]
    assert (made.layer(x) - nothing - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", SCHEMES)
def test_the_codes_know_nothing_of_them_and_the_weight_does(name: str) -> None:
    scheme = SCHEMES[name]
    made = make(scheme)
    weight = fast_hadamard(made.weight) if scheme.rotate else made.weight
    assert (made.layer.weight - weight).norm() <= 0.1 * weight.norm()
    if scheme.weight is None or scheme.rotate:
        return
    assert not made.layer.quantized_weight().dequantized()[:, SPIKES].any()
    assert torch.equal(made.layer.weight[:, SPIKES].double(), made.weight[:, SPIKES])


def test_large_columns_do_not_coarsen_the_rest() -> None:
    weight = torch.randn(OUT, WIDTH)
    weight[:, SPIKES] *= 1000
    assert make(INT8, weight).layer.weight_scale.max() < 0.05


@pytest.mark.parametrize("kernel", [Int8Kernel(), OneDnnKernel(), Int8PackKernel()], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("name", ["int8", "dynamic", "routed", "rotated and centered"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_agree_with_the_reference(kernel: Kernel, name: str, dtype: torch.dtype) -> None:
    scheme = replace(SCHEMES[name], weight=WeightScheme(8, limit=63))
    layer, x = make(scheme).layer, draw(33).to(dtype)
    x[5, 7] = 500  # a routed row, where rows are
    reference = layer(x)
    layer.use(Selection.always(kernel), dtype)
    precision = torch.finfo(kernel.precision(dtype)).eps
    assert (layer(x) - reference).norm() <= max(1e-6, precision) * reference.norm()


def test_without_units_there_is_nothing() -> None:
    plain = QuantizedLinear(WIDTH, OUT, replace(INT8, spikes=0), bias=False)
    assert plain.spikes(torch.ones(1, WIDTH)) is None
    assert not [name for name in plain.state_dict() if "spike" in name]


def test_siblings_share_an_input_only_with_the_same_units() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.gate = (make(INT8).layer for _ in range(3))
            for layer in (self.k, self.gate):
                layer.input_scale.copy_(self.q.input_scale)
            self.gate.spike_index = torch.tensor([3, 41], dtype=torch.int32)

    model, x = Branches(), draw(20)
    expected = [layer(x) for layer in model.children()]
    for layer in (model.q, model.k, model.gate):
        layer.use(Selection((None,) * 4), torch.float32)
    use_kernels(model)
    found = [model.q(x), model.k(x)]
    assert model.q.shared is not None and model.q.shared._kept is not None
    assert model.q.shared._kept.takers == {model.q, model.k}
    for got, wanted in zip([*found, model.gate(x)], expected, strict=True):
        assert torch.equal(got, wanted)


def test_the_scheme_is_stored_and_older_ones_have_none() -> None:
    assert LinearScheme.from_dict(INT8.to_dict()) == INT8
    old = INT8.to_dict()
    del old["spikes"]
    assert LinearScheme.from_dict(old) == replace(INT8, spikes=0)


def test_gradients_reach_the_units() -> None:
    made, x = make(INT8), draw(4).requires_grad_()
    made.layer(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[:, SPIKES], made.weight[:, SPIKES].sum(0).float().expand(4, 2))


def test_it_compiles_whole() -> None:
    torch._dynamo.reset()
    layer = make(SCHEMES["rotated"]).layer
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x = draw(10)
    assert torch.equal(compiled(x), layer(x))
