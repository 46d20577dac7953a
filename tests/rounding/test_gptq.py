"""GPTQ against rounding to nearest and against a plain float64 reference."""

from __future__ import annotations

import pytest
import torch

from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import round_to_nearest, weight_ranges
from sinkquant.rounding.gptq import gptq, inverse_factor


def problem(width: int = 64, out: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    mixing = torch.randn(width, width) * torch.linspace(0.2, 3, width)
    x = torch.randn(2000, width) @ mixing
    return torch.randn(out, width), x.T @ x / len(x)


def loss(weight: torch.Tensor, other: torch.Tensor, hessian: torch.Tensor) -> float:
    error = (weight - other).double()
    return float(((error @ hessian.double()) * error).sum())


@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_better_than_rounding(group: int | None, symmetric: bool) -> None:
    weight, hessian = problem()
    scheme = WeightScheme(4, symmetric, group)
    ours = gptq(weight, hessian, scheme).dequantized()
    nearest = round_to_nearest(weight, scheme, search=True).dequantized()
    assert loss(weight, ours, hessian) < 0.6 * loss(weight, nearest, hessian)


def test_blocked_equals_the_column_by_column_reference() -> None:
    weight, hessian = problem(width=160, out=5)  # more than one block of columns
    scheme = WeightScheme(3)
    ours = gptq(weight, hessian, scheme, act_order=False, search=False)
    upper = inverse_factor(hessian, 0.01)
    scale, _ = weight_ranges(weight, scheme, search=False)
    w, codes = weight.double().clone(), torch.empty_like(weight)
    for i in range(w.shape[1]):
        q = (w[:, i] / scale[:, 0]).round().clamp(-4, 3)
        error = (w[:, i] - q * scale[:, 0]) / upper[i, i]
        w[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
        codes[:, i] = q
    assert (ours.codes != codes).float().mean() < 0.02  # float32 against float64: a few ties fall the other way


def test_inputs_that_never_occur_do_no_harm() -> None:
    weight, hessian = problem()
    hessian[3], hessian[:, 3] = 0, 0
    assert torch.isfinite(gptq(weight, hessian, WeightScheme(4)).dequantized()).all()


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "not finite on this text"), (float("inf"), "not finite")])
def test_a_hessian_of_inputs_that_are_not_finite_is_named(value: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        inverse_factor(torch.eye(4).fill_diagonal_(value), 0.01)
