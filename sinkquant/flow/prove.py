"""What the model was before, and whether what was written is that model with fewer bits."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.evaluation.metric import METRICS
from sinkquant.evaluation.nonsense import Reference, refuse_loss, refuse_strange
from sinkquant.evaluation.reloaded import check_reloaded
from sinkquant.evaluation.score import RESULT, Score, against_baseline, score, side_by_side
from sinkquant.flow.plan import Plan
from sinkquant.flow.session import Session
from sinkquant.formats.format import FORMATS
from sinkquant.formats.load import read
from sinkquant.models.fit import places_of
from sinkquant.recipes.schema import Proof
from sinkquant.tasks.probe import take_probe
from sinkquant.tasks.task import Task


@dataclass(frozen=True)
class Baseline:
    """The model before anything was changed: its score, and its answers where they are few."""

    score: Score
    answers: list[Tensor] | None


def metrics_of(proof: Proof, task: Task) -> tuple[str, ...]:
    """Those that the recipe names, or what results of this task are measured by."""
    return task.metrics if proof == Proof() or proof.metrics == Proof().metrics else proof.metrics


def require_measurable(proof: Proof, task: Task) -> None:
    """Raise UsageError where a metric compares with answers of the float model that are not kept for this task."""
    for name in () if task.keeps_answers else metrics_of(proof, task):
        if against_baseline(METRICS[name]):
            raise UsageError(
                f"the metric {name!r} compares with what the float model answers, which is too much to keep "
                f"(task {task.name}): name in proof.metrics what is measured against labels, such as perplexity."
            )


def take_baseline(session: Session, plan: Plan) -> Baseline:
    """On the held-out data, with BOS in front of text where the model is used so."""
    task, model = session.task, session.model
    batches = task.begun(session.data.held_out, session.data.begin)
    metrics = metrics_of(plan.recipe.proof, task)
    answers: list[Tensor] | None = [] if task.keeps_answers else None
    return Baseline(score(task, model, batches, metrics=metrics, kept=answers), answers)


def prove(
    folder: Path, session: Session, plan: Plan, baseline: Baseline, before: Reference
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load `folder` in place of the session's model, whose memory it takes; returns figures and the probe.

    Raises SinkquantError where it computes something else than the model in memory, Nonsense where it is of no use.
    """
    assert session.source is not None
    task, proof, ours = session.task, plan.recipe.proof, FORMATS[plan.recipe.target].ours
    few = task.few(session.calibration)
    if not ours:  # what a stock loader chooses, part by part
        session.model.set_attn_implementation(session.attention)
    expected = task.answer(session.model, few)
    held_out, ids = session.held_out, task.probe_ids(session.processor, session.begin)
    session.release()
    gc.collect()
    reloaded = read(folder, execution="stock", trust_remote_code=session.source.trusted)
    if proof.worst is not None:
        refuse_strange(reloaded, before)
    check_reloaded(task.answer(reloaded, few), expected, ours=ours)
    outcome = score(task, reloaded, held_out, who=RESULT, metrics=metrics_of(proof, task), reference=baseline.answers)
    if outcome.nll is not None and baseline.score.nll is not None:
        refuse_loss(reloaded, before, baseline.score.nll, outcome.nll, before.answers.shape[-1], proof.worst)
    about = {task.counts: outcome.tokens, "data": "held-out part of the calibration data"}
    return about | side_by_side(baseline.score, outcome), take_probe(task, reloaded, ids[: places_of(reloaded.config)])
