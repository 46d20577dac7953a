"""Which rows of a layer's input belong to sinks."""

from __future__ import annotations

import torch
from torch import Tensor


def ordinary_rows(rows: Tensor, real: Tensor, threshold: float) -> Tensor:
    """(tokens,) bool: which of `rows` (tokens, width) are no sinks, at most `threshold` times the median real row.

    A row's size is its largest magnitude; `real` (tokens,) bool marks what is no padding. Rows of zeros do not count:
    experts are handed them for tokens that others compute.
    """
    size = rows.abs().amax(-1).float()
    counted = size[real & (size > 0)]
    return size <= threshold * (counted if len(counted) else size).median()


def without_sinks(rows: Tensor, threshold: float) -> Tensor:
    """Those of `rows` (tokens, width), none of them padding, that are no sinks."""
    return rows[ordinary_rows(rows, torch.ones(len(rows), dtype=torch.bool, device=rows.device), threshold)]
