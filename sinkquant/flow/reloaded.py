"""Whether a checkpoint that was loaded again computes what the model in memory does."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sinkquant.errors import SinkquantError
from sinkquant.flow.exactness import difference
from sinkquant.flow.transform import padded_logits

# Of the logits' scale, float32: what another order of the same sums makes. Ours runs the same operations on the same
# tensors, and only where these lie in memory can differ; a stock loader chooses the attention of every part by itself.
OURS, STOCK = 1e-6, 1e-5


def expected_logits(model: Any, rows: Tensor, mask: Tensor, attention: dict[str, str] | None) -> Tensor:
    """Logits of a padded batch; `attention`: what the loader will choose, part by part; None for the present."""
    if attention is not None:
        model.set_attn_implementation(attention)
    return padded_logits(model, rows, mask)


def check_reloaded(got: Tensor, expected: Tensor, *, ours: bool) -> None:
    """Raise SinkquantError where the logits differ by more than rounding; `ours`: our runtime computed them."""
    error = difference(got, expected)
    if error <= (OURS if ours else STOCK):
        return
    raise SinkquantError(
        f"the written checkpoint gives other logits than the model in memory, {error:.1e} of their scale apart: this "
        "architecture does not survive saving and loading with this recipe; use another one, and report the model."
    )
