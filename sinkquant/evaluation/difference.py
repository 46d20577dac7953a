"""How far two sets of answers are apart, where they should be the same."""

from __future__ import annotations

from torch import Tensor


def difference(after: Tensor, before: Tensor) -> float:
    """The largest difference of two sets of logits, relative to the scale of the second."""
    return float((after - before).abs().max() / before.abs().max())
