"""`weights.limit`, for int8 kernels that overflow: no rounding method leaves it."""

from __future__ import annotations

import pytest
import torch

from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import QuantizedWeight, round_to_nearest
from sinkquant.rounding.descent import refine
from sinkquant.rounding.gptq import gptq

SCHEME = WeightScheme(8, limit=63)
WEIGHT = torch.randn(24, 32, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(200, 32, generator=torch.Generator().manual_seed(1))
HESSIAN = (ROWS.T @ ROWS / len(ROWS)).double()


def by_gptq() -> QuantizedWeight:
    return gptq(WEIGHT, HESSIAN, SCHEME)


METHODS = {
    "rtn": lambda: round_to_nearest(WEIGHT, SCHEME, search=False),
    "rtn, searched": lambda: round_to_nearest(WEIGHT, SCHEME, search=True),
    "gptq": by_gptq,
    "gptq, refined": lambda: refine(WEIGHT, by_gptq(), HESSIAN, SCHEME, damping=0.01, sweeps=3),
}


@pytest.mark.parametrize("name", METHODS)
def test_codes_stay_within_the_limit(name: str) -> None:
    codes = METHODS[name]()
    assert 50 <= int(codes.codes.abs().max()) <= 63
    assert (codes.dequantized() - WEIGHT).abs().max() <= WEIGHT.abs().max() * 2 / 126
