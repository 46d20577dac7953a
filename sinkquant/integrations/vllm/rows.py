"""Which rows of a batch are placeholders of the prefix, and their replacement. Pure tensor functions, no host sync."""

from __future__ import annotations

import torch
from torch import Tensor


def token_positions(count: int, query_start: Tensor, lengths: Tensor) -> Tensor:
    """Position in its own sequence (count,) of every token of a flattened batch.

    `query_start` (R + 1,): where each request's new tokens begin; `lengths` (R,): its tokens so far, new ones included.
    Rows of padding behind the last request get positions beyond its end.
    """
    index = torch.arange(count, device=lengths.device)
    ends = query_start[1 : len(lengths) + 1]
    request = torch.searchsorted(ends, index.to(ends.dtype), right=True).clamp_max(len(lengths) - 1)
    return index + lengths[request] - ends[request]


def put_prefix(rows: Tensor, prefix: Tensor, positions: Tensor) -> Tensor:
    """`rows` (T, heads, d) with `prefix` (P, heads, d) where `positions` (T,) is below P."""
    held = len(prefix)
    chosen = prefix.to(rows.dtype)[positions.clamp(0, held - 1)]
    return torch.where((positions < held)[:, None, None], chosen, rows)
