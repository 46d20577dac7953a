"""Tuning as `quantize` does it: targets before rounding, distillation after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sinkquant.flow.session import Session, Tell
from sinkquant.inputs.batches import Batches
from sinkquant.models.attention import own_attention
from sinkquant.models.head import ending
from sinkquant.recipes.schema import Tuning
from sinkquant.tuning.distill import Distillation, distill
from sinkquant.walk.walk import Walk, run_block


@dataclass(frozen=True, eq=False)
class Target:
    """What the last block gave for each step's share of `batches`, (N, T, D) each; the last `held_out` decide."""

    batches: Batches
    held_out: int
    states: list[Tensor]


def tuning_target(session: Session, spec: Tuning) -> Target:
    """Of the model as it is now."""
    held_out = session.task.pieces(session.held_out, spec.length)
    batches = session.task.pieces(session.calibration, spec.length, spec.tokens) + held_out
    states = Walk(session.model, session.roles, batches, tokens=spec.length).run(run_block)
    return Target(batches, len(held_out.split(spec.length)), states)


def tune(session: Session, target: Target, spec: Tuning, tell: Tell) -> dict[str, Any] | str:
    """Distil the quantized model towards `target`; what came of it, or why it was left out."""
    end = ending(session.model, session.roles, session.task.few(session.calibration))
    if end is None:
        return "left out: what the model answers are no logits behind one stack of blocks"
    walk = Walk(session.model, session.roles, target.batches, tokens=spec.length)
    run = Distillation(session.model, session.roles, walk, target.states, end)
    with own_attention(session.model, session.roles.attends), torch.enable_grad():
        return vars(distill(run, target.held_out, spec, tell))
