"""Whether a checkpoint that was loaded again computes what the model in memory does."""

from __future__ import annotations

from torch import Tensor

from sinkquant.errors import SinkquantError
from sinkquant.evaluation.difference import difference

# Of the logits' scale, float32: what another order of the same sums makes. Ours runs the same operations on the same
# tensors, and only where these lie in memory can differ; a stock loader chooses the attention of every part by itself.
OURS, STOCK = 1e-6, 1e-5


def check_reloaded(got: Tensor, expected: Tensor, *, ours: bool) -> None:
    """Raise SinkquantError where the logits differ by more than rounding; `ours`: our runtime computed them."""
    error = difference(got, expected)
    if error <= (OURS if ours else STOCK):
        return
    raise SinkquantError(
        f"the written checkpoint gives other logits than the model in memory, {error:.1e} of their scale apart: this "
        "architecture does not survive saving and loading with this recipe; use another one, and report the model."
    )
