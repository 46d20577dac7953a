"""What a checkpoint states of the run that made it, and what its blocks depend on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sinkquant.evaluation.versions import code_digest, versions
from sinkquant.flow.plan import Plan
from sinkquant.flow.session import Session
from sinkquant.formats.facts import Experts
from sinkquant.sinks.report import SinkReport


def facts_of(session: Session, plan: Plan, report: SinkReport | None, experts: Sequence[Experts]) -> dict[str, Any]:
    """For the manifest."""
    return {
        "recipe": plan.recipe.model_dump(mode="json"), "recipe_digest": plan.recipe.digest(),
        "model": session.label, "task": session.task.name, "model_fingerprint": session.fingerprint,
        "prefix": list(plan.prefix), "bos": session.data.begin is not None,
        "report": report.model_dump(mode="json") if report else None, "notes": list(plan.notes),
        "rotations": vars(plan.rotations), "experts": [one.model_dump(mode="json") for one in experts],
    }  # fmt: skip


def identity(session: Session, plan: Plan) -> dict[str, Any]:
    """Everything that the bits of the quantized blocks depend on: sums are of another order with other threads."""
    return {
        "versions": versions(), "code": code_digest(session.model), "model_fingerprint": session.fingerprint,
        "recipe": plan.recipe.model_dump(mode="json"), "prefix": list(plan.prefix), "task": session.task.name,
        "data": session.calibration.digest, "threshold": session.threshold,
        "threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip
