"""Grids: bounds, symmetry, and agreement with compressed-tensors."""

from __future__ import annotations

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize as reference_fake_quantize
from compressed_tensors.quantization.utils import calculate_qparams
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkquant.quantization.activations import static_range, token_ranges
from sinkquant.quantization.grid import Grid, dequantize, fake_quantize, quantize, scale_and_zero
from sinkquant.quantization.kv import KVGrid
from sinkquant.quantization.scheme import ActivationScheme


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 3, 4, 6, 8]), st.booleans(), st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_rounding_error_is_at_most_half_a_step(bits: int, symmetric: bool, seed: int, size: float) -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * size
    grid = Grid(bits, symmetric)
    scale, zero = scale_and_zero(x.amin()[None], x.amax()[None], grid)
    q = quantize(x, scale, zero, grid)
    assert torch.equal(q, q.round())
    assert q.min() >= grid.low
    assert q.max() <= grid.high
    error = (dequantize(q, scale, zero) - x).abs()
    inside = (q > grid.low) & (q < grid.high)
    assert (error[inside] <= scale * 0.5001).all()
    assert (error <= scale * 1.01).all()


def test_dynamic_tokens_match_compressed_tensors() -> None:
    x = torch.randn(7, 96)
    args = QuantizationArgs(num_bits=8, symmetric=True, strategy="token", dynamic=True)
    scale, zero = calculate_qparams(x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), args)
    expected = reference_fake_quantize(x, scale, zero, args)
    scheme = ActivationScheme(8, "dynamic")
    assert torch.equal(fake_quantize(x, *token_ranges(x, scheme), scheme.grid), expected)


def test_a_limit_narrows_the_codes() -> None:
    grid = Grid(8, limit=63)
    x = torch.randn(100)
    scale, zero = scale_and_zero(x.amin()[None], x.amax()[None], grid)
    assert quantize(x, scale, zero, grid).abs().max() <= 63


def test_searched_range_beats_the_full_range_when_there_are_outliers() -> None:
    x = torch.randn(512, 32)
    x[0, 0] = 60.0
    grid = Grid(4)
    losses = []
    for search in (False, True):
        scale, zero = static_range(x, grid, search=search)
        losses.append(float((fake_quantize(x, scale, zero, grid) - x).pow(2).sum()))
    assert losses[1] < 0.75 * losses[0]


def test_kv_grid_keeps_the_ends_of_every_token() -> None:
    x = torch.randn(2, 3, 5, 16)
    y = KVGrid(4).fake(x)
    torch.testing.assert_close(y.amin(-1), x.amin(-1), rtol=2**-11, atol=0)  # both ends are made from float16
    torch.testing.assert_close(y.amax(-1), x.amax(-1), rtol=2**-10, atol=2**-10)
    assert (y - x).abs().max() <= (x.amax(-1) - x.amin(-1)).max() / 30 * 1.02
