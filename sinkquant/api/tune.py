"""Tuning as `quantize` does it: targets before rounding, distillation after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sinkquant.calibration.walk import Walk, run_block
from sinkquant.models.attention import own_attention
from sinkquant.models.roles import Roles
from sinkquant.models.trace import first_tensor
from sinkquant.recipes.schema import Tuning
from sinkquant.tuning.distill import Distillation, Tuned, distill


def pieces(ids: Tensor, length: int) -> Tensor:
    """Sequences (N, T) cut into (M, min(length, T)); what is left at the end of each is dropped."""
    length = min(length, ids.shape[1])
    return ids[:, : ids.shape[1] // length * length].reshape(-1, length)


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
    if not _head_is_all(model, run, ids[:1, :16]):
        return None
    with own_attention(model):
        return distill(run, held_out, spec, progress)


def _head_is_all(model: Any, run: Distillation, ids: Tensor) -> bool:
    seen: list[Tensor] = []

    def keep(_module: Any, _arguments: Any, output: Any) -> None:
        hidden = first_tensor(output)
        assert hidden is not None
        seen.append(hidden)

    hook = run.blocks[-1].register_forward_hook(keep)
    try:
        with torch.no_grad(), own_attention(model):
            logits = model(input_ids=ids, use_cache=False).logits
            return torch.allclose(run.logits(seen[0]), logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))
    finally:
        hook.remove()
