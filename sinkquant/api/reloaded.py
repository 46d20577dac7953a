"""Whether a checkpoint that was loaded again computes what the model in memory does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sinkquant.api.exactness import difference
from sinkquant.api.transform import padded_logits
from sinkquant.errors import SinkquantError

ROUNDING = 1e-5  # of the logits' scale, float32: what another order of the same sums makes


def expected_logits(model: Any, rows: Tensor, mask: Tensor, attention: str | None) -> Tensor:
    """Logits of a padded batch; `attention`: the implementation that the loader will choose, None for the present."""
    if attention is not None:
        model.set_attn_implementation(attention)
    return padded_logits(model, rows, mask)


def check_reloaded(got: Tensor, expected: Tensor, *, ours: bool) -> None:
    """Raise SinkquantError where the logits differ: in a bit if our runtime computes them, beyond rounding if not.

    A stock loader chooses the attention of every part of a composite model by itself, and sums in another order.
    """
    error = difference(got, expected)
    if torch.equal(got, expected) or (not ours and error <= ROUNDING):
        return
    raise SinkquantError(
        f"the written checkpoint gives other logits than the model in memory, {error:.1e} of their scale apart: this "
        "architecture does not survive saving and loading with this recipe; use another one, and report the model."
    )
