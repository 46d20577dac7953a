"""What one static scale would cost an input, on rows whose answer is known."""

from __future__ import annotations

import pytest
import torch

from sinkquant.sinks.signals.range_waste import range_waste, row_peaks

ROWS = torch.tensor([[1.0, -4.0], [2.0, 0.5], [900.0, -900.0], [-0.01, 0.0]])


@pytest.mark.parametrize(
    ("real", "expected"), [([True, True, False, True], [4.0, 2.0, 0.01]), ([False] * 4, [])], ids=["padded", "none"]
)
def test_peaks_are_magnitudes_of_real_rows(real: list[bool], expected: list[float]) -> None:
    assert row_peaks(ROWS, torch.tensor(real)).tolist() == pytest.approx(expected, rel=0.01)


def test_rows_below_half_a_step_are_lost() -> None:
    waste = range_waste("fc2", torch.tensor([4.0, 2.0, 0.01]))
    assert (waste.underflow, waste.dispersion, waste.bits) == pytest.approx((1 / 3, 2.0, 1.0))
