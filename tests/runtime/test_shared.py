"""Siblings share what is made of an input, and never more than that."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from sinkquant.quantization.scheme import ActivationScheme, LinearScheme, WeightScheme
from sinkquant.quantization.weights import QuantizedWeight
from sinkquant.runtime.kernels.int4 import Int4Kernel, cpu_block
from sinkquant.runtime.kernels.int8 import Int8Kernel
from sinkquant.runtime.kernels.samples import random_layer
from sinkquant.runtime.kernels.selection import Selection
from sinkquant.runtime.kernels.use import use_kernels
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.shared import Ready, SharedInputs


class Counting(Int8Kernel):
    """Counts how often an input is rounded."""

    def __init__(self) -> None:
        self.times = 0

    def operand(self, layer: QuantizedLinear, x: Tensor):  # type: ignore[no-untyped-def]
        self.times += 1
        return super().operand(layer, x)


class Branches(nn.Module):
    """Three linears with one input; the range of the last is another."""

    def __init__(self, kernel: Int8Kernel) -> None:
        super().__init__()
        scheme = LinearScheme(WeightScheme(8), ActivationScheme(8, "static", route=2.0))
        for name, scale in (("q", 0.02), ("k", 0.02), ("gate", 0.03)):
            codes = torch.randint(-128, 128, (64, 96), dtype=torch.int8)
            weight = QuantizedWeight(codes, torch.rand(64, 1) * 0.02 + 1e-3, None)
            layer = QuantizedLinear.from_linear(
                nn.Linear(96, 64), scheme, weight, (torch.tensor([scale]), torch.zeros(1))
            )
            layer.use(Selection.always(kernel), torch.float32)
            setattr(self, name, layer)
        use_kernels(self)  # every choice is made: only sharing is left to do

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.q(x), self.k(x), self.gate(x)]


def alone(model: Branches, x: Tensor) -> list[Tensor]:
    copies = [deepcopy(layer) for layer in (model.q, model.k, model.gate)]
    for layer in copies:
        layer.shared = None
    return [layer(x) for layer in copies]


@pytest.mark.parametrize("inference", [False, True])
def test_siblings_with_equal_ranges_round_once(inference: bool) -> None:
    kernel = Counting()
    model = Branches(kernel)
    with torch.inference_mode(inference):
        x = torch.randn(2, 5, 96)
        x[1, 3] *= 50  # a routed row
        found = model(x)
        assert kernel.times == 2
        assert all(torch.equal(a, b) for a, b in zip(found, alone(model, x), strict=True))


@pytest.mark.parametrize("inference", [False, True])
def test_a_tensor_that_was_changed_in_place_is_rounded_again(inference: bool) -> None:
    model = Branches(Int8Kernel())
    with torch.inference_mode(inference):
        x = torch.randn(5, 96)
        model(x)
        x.neg_()
        assert all(torch.equal(a, b) for a, b in zip(model(x), alone(model, x), strict=True))


def test_nothing_is_kept_when_the_input_is_gone() -> None:
    shared, made = SharedInputs(), []

    def make(_: Tensor) -> Ready:
        made.append(True)
        return Ready(torch.zeros(1))

    x = torch.zeros(3)
    shared.take(x, "q", "way", make)
    shared.take(x, "k", "way", make)
    shared.take(x, "k", "another", make)
    assert len(made) == 2
    del x
    assert shared._kept is None
    assert deepcopy(shared)._kept is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(5, 64), (2, 5, 64)], ids=str)
@torch.no_grad()
def test_an_operand_that_is_the_input_itself_does_not_keep_it(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if cpu_block() is None:
        pytest.skip("torch has no 4-bit kernel for this CPU")
    layer = random_layer(LinearScheme(WeightScheme(4, group_size=32)), 128, 64)
    layer.use(Selection.always(Int4Kernel()), dtype)
    layer.shared = SharedInputs()
    x = torch.randn(shape).to(dtype)
    layer(x)
    assert layer.shared._kept is not None
    del x
    assert layer.shared._kept is None


@pytest.mark.parametrize("inference", [False, True])
def test_rows_that_are_dequantized_share_what_is_rounded(inference: bool) -> None:
    model = Branches(Int8Kernel())
    for layer in (model.q, model.k, model.gate):
        layer.choice = Selection((None,) * 4)
    with torch.inference_mode(inference):
        x = torch.randn(2, 5, 96)
        x[1, 3] *= 50
        first, second = model.q(x), model.k(x)
        assert model.q.shared is not None
        assert model.q.shared._kept.takers == {model.q, model.k}
        for found, expected in zip((first, second), alone(model, x), strict=False):
            assert torch.equal(found, expected)
