"""Probes that cannot be compared say so."""

from __future__ import annotations

import math

import pytest

from sinkquant.errors import SinkquantError
from sinkquant.evaluation.probe import compare_probes

GOOD = {"ids": [1, 2, 3, 4], "nll": [1.0, 2.0, 3.0], "logits": "sha256:a"}


def test_equal_probes_are_identical() -> None:
    found = compare_probes(GOOD, GOOD)
    assert found.identical and found.mean == 0 and found.tokens == 3


@pytest.mark.parametrize("losses", [[1.0, math.nan, 3.0], [1.0, math.inf, 3.0], [1.0, 2.0], [], [1.0, 2.0, 3.0, 4.0]])
def test_losses_that_say_nothing_are_refused(losses: list[float]) -> None:
    with pytest.raises(SinkquantError, match="the runtime has no finite loss for every token of the probe"):
        compare_probes(GOOD, {"nll": losses})


@pytest.mark.parametrize("losses", [[math.nan, 1.0], [1.0], []])
def test_a_manifest_without_losses_is_refused(losses: list[float]) -> None:
    with pytest.raises(SinkquantError, match="the manifest has no finite loss"):
        compare_probes(GOOD | {"nll": losses}, {"nll": losses})
