"""Tuning as `quantize` does it: targets before rounding, distillation after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sinkquant.flow.session import Session
from sinkquant.inputs.batches import Batches
from sinkquant.models.attention import own_attention
from sinkquant.models.head import ending
from sinkquant.progress import Progress
from sinkquant.recipes.schema import Tuning
from sinkquant.tuning.distill import Distillation, distill
from sinkquant.walk.walk import Walk, run_block


@dataclass(frozen=True, eq=False)
class Teacher:
    """What the last block gave for each step's share of `batches`, (N, T, D) each; the last `held_out` decide."""

    batches: Batches
    held_out: int
    states: list[Tensor]


def teacher_of(session: Session, spec: Tuning) -> Teacher:
    """Of the model as it is now."""
    held_out = session.task.pieces(session.held_out, spec.length)
    batches = session.task.pieces(session.calibration, spec.length, spec.tokens) + held_out
    states = Walk(session.model, session.roles, batches, tokens=spec.length).run(run_block)
    return Teacher(batches, len(held_out.cut(spec.length)), states)


def tune(session: Session, teacher: Teacher, spec: Tuning, tell: Progress) -> dict[str, Any] | str:
    """Distil the quantized model towards `teacher`; what came of it, or why it was left out."""
    model, roles = session.model, session.roles
    with own_attention(model, roles.attends), torch.enable_grad():
        end = ending(model, roles, session.task.few(session.calibration))
        if end is None:
            return "left out: what the model answers are no logits behind one stack of blocks"
        walk = Walk(model, roles, teacher.batches, tokens=spec.length)
        walk.begin(roles.stacks[0])
        run = Distillation(model, roles, walk, teacher.states, end)
        return vars(distill(run, teacher.held_out, spec, tell))
