"""Tuning as `quantize` does it: targets before rounding, distillation after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sinkquant.models.attention import own_attention
from sinkquant.models.roles import Roles
from sinkquant.recipes.schema import Tuning
from sinkquant.tuning.distill import Distillation, Tuned, distill
from sinkquant.walk.walk import Walk, run_block


def pieces(ids: Tensor, length: int, tokens: int | None = None) -> Tensor:
    """Sequences (N, T) cut into (M, min(length, T)), at least one and at most `tokens` in all; ends are dropped."""
    length = min(length, ids.shape[1])
    cut = ids[:, : ids.shape[1] // length * length].reshape(-1, length)
    return cut if tokens is None else cut[: max(1, tokens // length)]


def targets(model: Any, roles: Roles, ids: Tensor) -> list[Tensor]:
    """What the last block gives for each of `ids` (M, T), (1, T, D) each."""
    return Walk(model, roles, ids, tokens=ids.shape[1]).run(run_block)


def tune(
    model: Any, roles: Roles, ids: Tensor, held_out: int, expected: list[Tensor], spec: Tuning,
    progress: Callable[[int, int], None],
) -> Tuned | None:  # fmt: skip
    """Distil the quantized model on `ids` (M, T), the last `held_out` of which decide.

    None where the logits are something else than the head behind the final norm, so that they cannot be compared.
    """
    run = Distillation(model, roles, Walk(model, roles, ids, tokens=ids.shape[1]), expected)
    if not run.head.is_all(ids[:1, :16]):
        return None
    with own_attention(model, roles.attends), torch.enable_grad():
        return distill(run, held_out, spec, progress)
