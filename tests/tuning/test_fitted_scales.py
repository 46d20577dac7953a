"""A linear whose scales are being fitted: the same outputs, and gradients against float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from sinkquant.quantization.scheme import LinearScheme, WeightScheme
from sinkquant.quantization.weights import round_to_nearest
from sinkquant.runtime.linear import QuantizedLinear

OUT, WIDTH = 24, 64


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "scheme", [WeightScheme(4), WeightScheme(4, symmetric=False), WeightScheme(8), WeightScheme(4, group_size=16)]
)
def test_outputs_and_gradients(scheme: WeightScheme, bias: bool) -> None:
    module, x = nn.Linear(WIDTH, OUT, bias=bias), torch.randn(2, 5, WIDTH)
    weight = round_to_nearest(module.weight.detach(), scheme, search=False)
    layer = QuantizedLinear.from_linear(module, LinearScheme(scheme, None), weight)
    scale, slope = layer.weight_scale.clone().requires_grad_(), torch.randn(2, 5, OUT)
    got = functional_call(layer, {"weight_scale": scale}, (x,))
    torch.testing.assert_close(got, layer(x), rtol=1e-5, atol=1e-5)

    exact = layer.weight_scale.double().requires_grad_()
    zero = 0 if weight.zero is None else weight.zero.double()[..., None]
    codes = weight.codes.double().reshape(OUT, exact.shape[1], -1) - zero
    (x.double() @ (codes * exact[..., None]).reshape(OUT, WIDTH).T * slope).sum().backward()
    (got * slope).sum().backward()
    assert scale.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(scale.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)
