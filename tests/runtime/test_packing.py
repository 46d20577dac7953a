"""Packed tensors hold the codes bit for bit, and the packed layer computes what the fake one does."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import linear

from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.quantization.activations import token_ranges
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme, WeightScheme
from sinkquant.quantization.weights import round_to_nearest
from sinkquant.runtime import packing
from sinkquant.runtime.linear import QuantizedLinear


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([2, 3, 4, 8]),
    st.booleans(),
    st.integers(1, 70),
    st.sampled_from([16, 48]),
    st.sampled_from([None, 8]),
)
def test_pack_and_unpack_are_inverse(bits: int, symmetric: bool, out: int, width: int, group: int | None) -> None:
    scheme = WeightScheme(bits, symmetric, group)
    codes = round_to_nearest(torch.randn(out, width), scheme, search=False)
    tensors = packing.pack(codes, scheme)
    back = packing.unpack(tensors, scheme, out, width)
    assert torch.equal(back.codes, codes.codes)
    assert torch.equal(back.dequantized(), codes.dequantized())
    empty = packing.empty(scheme, out, width)
    assert {n: (t.shape, t.dtype) for n, t in tensors.items()} == {n: (t.shape, t.dtype) for n, t in empty.items()}


def test_packed_path_equals_fake_path_bit_for_bit() -> None:
    module, x = nn.Linear(48, 20), torch.randn(3, 5, 48)
    for activation in (None, ActivationScheme(4, "dynamic"), ActivationScheme(8, "static", symmetric=False)):
        scheme = LinearScheme(WeightScheme(4), activation, rotate=True)
        codes = round_to_nearest(module.weight.detach(), WeightScheme(4), search=True)
        ranges = (torch.tensor([0.031]), torch.tensor([7.0]))
        made = QuantizedLinear.from_linear(module, scheme, codes, ranges)
        rotated = fast_hadamard(x)
        if activation is None:
            inputs = rotated
        elif activation.mode == "static":
            inputs = fake_quantize(rotated, *ranges, activation.grid)
        else:
            inputs = fake_quantize(rotated, *token_ranges(rotated, activation), activation.grid)
        assert torch.equal(made(x), linear(inputs, codes.dequantized(), module.bias))


def test_without_quantization_only_the_rotation_remains() -> None:
    module, x = nn.Linear(48, 20).requires_grad_(False), torch.randn(7, 48)
    expected = module(x)
    module.weight.copy_(fast_hadamard(module.weight.double()))
    made = QuantizedLinear.from_linear(module, LinearScheme(None, None, rotate=True), None)
    torch.testing.assert_close(made(x), expected, atol=1e-5, rtol=1e-5)


def test_a_mean_of_the_input_changes_nothing_but_the_grid() -> None:
    module, x = nn.Linear(48, 20).requires_grad_(False), torch.randn(64, 48) + 5 * torch.randn(48)
    offset = x.mean(0)
    made = QuantizedLinear.from_linear(module, LinearScheme(None, None, center=True), None, input_offset=offset)
    expected = (x.double() @ module.weight.double().T + module.bias.double()).float()
    torch.testing.assert_close(made(x), expected, atol=1e-5, rtol=1e-5)

    def error(center: bool) -> float:
        scheme = LinearScheme(WeightScheme(4), ActivationScheme(4, "dynamic"), center=center)
        codes = round_to_nearest(module.weight.detach(), WeightScheme(4), search=True)
        layer = QuantizedLinear.from_linear(module, scheme, codes, input_offset=offset if center else None)
        return float((layer(x) - expected).pow(2).mean())

    assert error(center=True) < error(center=False) / 4
