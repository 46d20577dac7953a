"""Rows of unequal length as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def padded(rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
    """The rows (N, T) int64 with `value` behind the shorter ones, and a mask (N, T), True where an entry is real."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), value)
    real = torch.zeros((len(rows), longest), dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
        real[number, : len(row)] = True
    return ids, real


def pad_id(tokenizer: Any) -> int:
    """The id that fills rows; what it is plays no role where a mask says that it is not real."""
    return next((int(one) for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
