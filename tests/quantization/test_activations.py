"""Ranges of activations: what a clip search finds is no worse than the full range, in the layer's exact outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sinkquant.quantization.activations import CLIPS, dynamic_clip, static_range, token_ranges
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.scheme import ActivationScheme


def output_error(rows: torch.Tensor, weight: torch.Tensor, scheme: ActivationScheme) -> float:
    made = fake_quantize(rows, *token_ranges(rows, scheme), scheme.grid)
    return float(((made - rows).double() @ weight.double().T).pow(2).sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_dynamic_clip_lowers_the_error_of_the_outputs(bits: int, symmetric: bool) -> None:
    rows, weight = torch.randn(400, 256) * torch.rand(400, 1), torch.randn(512, 256)
    scheme = ActivationScheme(bits, "dynamic", symmetric)
    share = dynamic_clip(rows, scheme, weight)
    best = min(CLIPS, key=lambda clip: output_error(rows, weight, replace(scheme, clip=clip)))
    found, full = (output_error(rows, weight, replace(scheme, clip=clip)) for clip in (share, 1.0))
    assert found <= full
    assert found <= 1.05 * output_error(rows, weight, replace(scheme, clip=best))
    if bits == 4:
        assert share < 1  # a bell's tails are rarer than four bits can afford


def test_a_dynamic_range_without_tails_is_left_whole() -> None:
    rows = torch.randint(0, 2, (100, 64)) * 2.0 - 1
    assert dynamic_clip(rows, ActivationScheme(4, "dynamic"), torch.randn(32, 64)) == 1


def test_a_static_range_leaves_out_what_is_rare() -> None:
    scheme = ActivationScheme(4, "static")
    rows = torch.randn(500, 64)
    rows[3, 5] = 30
    (scale, zero), (full, none) = (static_range(rows, scheme.grid, search=search) for search in (True, False))
    errors = [
        float((fake_quantize(rows, *pair, scheme.grid) - rows).pow(2).sum()) for pair in ((scale, zero), (full, none))
    ]
    assert errors[0] < 0.7 * errors[1]
