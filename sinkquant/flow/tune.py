"""Tuning as `quantize` does it: targets before rounding, distillation after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sinkquant.flow.session import Session, Tell
from sinkquant.inputs.batches import Batches
from sinkquant.models.attention import own_attention
from sinkquant.recipes.schema import Tuning
from sinkquant.tuning.distill import Distillation, distill
from sinkquant.walk.walk import Walk, run_block


@dataclass(frozen=True, eq=False)
class Target:
    """What the last block gave for each of `batches`, (1, T, D) each; the last `held_out` decide."""

    batches: Batches
    held_out: int
    states: list[Tensor]


def tuning_target(session: Session, spec: Tuning) -> Target:
    """Of the model as it is now."""
    held_out = session.task.pieces(session.held_out, spec.length)
    batches = session.task.pieces(session.calibration, spec.length, spec.tokens) + held_out
    return Target(batches, held_out.samples, Walk(session.model, session.roles, batches, tokens=1).run(run_block))


def tune(session: Session, target: Target, spec: Tuning, tell: Tell) -> dict[str, Any] | str:
    """Distil the quantized model towards `target`; what came of it, or why it was left out."""
    walk = Walk(session.model, session.roles, target.batches, tokens=1)
    run = Distillation(session.model, session.roles, walk, target.states)
    if not run.head.is_all(session.task.few(session.calibration)):
        return "left out: what the model answers is not its head behind one stack of blocks"
    with own_attention(session.model, session.roles.attends), torch.enable_grad():
        return vars(distill(run, target.held_out, spec, tell))
