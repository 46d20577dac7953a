"""A quantized model against its baseline: both go through one code path, on the same samples."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from transformers import PreTrainedModel

from sinkquant.errors import UsageError
from sinkquant.evaluation.metric import METRICS
from sinkquant.evaluation.score import (
    LOSS,
    RESULT,
    Progress,
    Tally,
    against_baseline,
    places,
    require_finite,
    scored_range,
    windows_batch,
)
from sinkquant.evaluation.versions import versions
from sinkquant.inputs.batches import Batches
from sinkquant.runtime.routed_rows import RoutedRows
from sinkquant.tasks.causal_lm import CausalLM
from sinkquant.tasks.task import Task

CHOICES = (LOSS, "kl", "agreement")
"""What is compared wherever models answer with choices."""


class Comparison(BaseModel):
    """How far a result is from its baseline.

    `kl` is the mean of KL(baseline ‖ result) in nats a token; `top1_agreement` the share (0…1) of scored tokens for
    which both models put the same token first; `tokens` the number of scored tokens, `window` the tokens that the
    baseline sees at most (0 where samples are no windows of text); `seconds_*` the wall time each model took for its
    answers. Perplexities are None without labels, `kl` and `top1_agreement` where models answer with features.
    `figures` are the task's other metrics, of the baseline (None where a metric compares with it) and the result.
    `routed_rows` is the share (0…1) of the rows in front of routing linears that the result computed in float; None
    where nothing routes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    baseline_perplexity: float | None
    result_perplexity: float | None
    kl: float | None
    top1_agreement: float | None
    tokens: int
    windows: int
    window: int
    bos_baseline: str
    bos_result: str
    text: str
    versions: dict[str, str]
    seconds_baseline: float
    seconds_result: float
    routed_rows: float | None = None
    task: str = CausalLM.name
    figures: dict[str, tuple[float | None, float]] = {}


def compare(
    baseline: PreTrainedModel,
    result: PreTrainedModel,
    windows_baseline: Tensor,  # (N, a + T)
    windows_result: Tensor,  # (N, b + T)
    *,
    scored: slice = slice(1, None),
    text: str = "",
    bos_baseline: str = "none",
    bos_result: str = "none",
    progress: Progress | None = None,
) -> Comparison:
    """Causal language models on windows of token ids.

    The windows may differ by leading tokens (a BOS that the result carries as a constant of its attention); the T text
    tokens that follow must be the same. `scored` counts in text tokens, so both models are scored on the same targets.
    `text`, `bos_baseline` and `bos_result` are labels that are passed on.

    Errors: `UsageError` when the windows hold different text, the vocabularies differ or nothing can be scored;
    `SinkquantError` where a model's output is not finite.
    """
    lead_baseline, lead_result, width = _align(windows_baseline, windows_result)
    first, last = scored_range(scored, width)
    _require_same_vocabulary(baseline, result)
    theirs, ours = (
        Batches((windows_batch(windows, lead + first, lead + last),))
        for windows, lead in ((windows_baseline, lead_baseline), (windows_result, lead_result))
    )
    return compare_on(
        CausalLM(), baseline, result, theirs, ours, text=text, window=windows_baseline.shape[1],
        bos_baseline=bos_baseline, bos_result=bos_result, progress=progress,
    )  # fmt: skip


def compare_on(
    task: Task,
    baseline: Any,
    result: Any,
    theirs: Batches,
    ours: Batches | None = None,
    *,
    text: str = "",
    window: int = 0,
    bos_baseline: str = "none",
    bos_result: str = "none",
    progress: Progress | None = None,
) -> Comparison:
    """The task's metrics on samples `theirs` for the baseline and `ours` for the result (the same where None), which
    have the same labels; sample by sample and part by part. Raises SinkquantError where answers are not finite."""
    choices = CHOICES if task.answers_are == "choices" else ()
    names = list(dict.fromkeys([*choices, *task.metrics]))
    before, after = Tally([n for n in names if not against_baseline(METRICS[n])]), Tally(names)
    sides = [_Side(task, baseline, theirs, progress), _Side(task, result, ours if ours is not None else theirs)]
    with RoutedRows(result) as routed:
        for (sample, p, labels), (_, q, mine) in zip(*(side.places() for side in sides), strict=True):
            before.add(p, labels, None)
            after.add(q, mine, p)
            scored = labels is not None
            require_finite(before.last(LOSS) if scored else p, "the baseline", sample)
            require_finite(after.last(LOSS) if scored else q, RESULT, sample)
    own, other = before.figures, after.figures
    return Comparison(
        baseline_perplexity=own.get(LOSS), result_perplexity=other.get(LOSS), kl=other.get("kl"),
        top1_agreement=other.get("agreement"), tokens=after.places, windows=theirs.samples, window=window,
        bos_baseline=bos_baseline, bos_result=bos_result, text=text, versions=versions(),
        seconds_baseline=sides[0].seconds, seconds_result=sides[1].seconds, routed_rows=routed.share, task=task.name,
        figures={name: (own.get(name), other[name]) for name in names if name not in CHOICES and name in other},
    )  # fmt: skip


def gap(own: Comparison, others: Comparison) -> dict[str, tuple[float | None, float]]:
    """`image_gap`: how many nats a token the answers lose behind the images of `others`, of both models: what a model
    sees, as far as its answers tell."""
    pairs = ((own.baseline_perplexity, others.baseline_perplexity), (own.result_perplexity, others.result_perplexity))
    lost = [math.log(b / a) for a, b in pairs if a is not None and b is not None]
    return {"image_gap": (lost[0], lost[1])} if len(lost) == 2 else {}


class _Side:
    """One of the two models with its samples, and the seconds that it has taken for its answers so far."""

    def __init__(self, task: Task, model: Any, batches: Batches, progress: Progress | None = None) -> None:
        self.task, self.model, self.batches, self.progress = task, model, batches, progress
        self.seconds = 0.0

    def places(self) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """As `score.places`, timed."""
        parts = places(self.task, self.model, self.batches, self.progress)
        while True:
            start = time.perf_counter()
            part = next(parts, None)
            if part is not None and part[1].is_cuda:
                torch.cuda.synchronize(part[1].device)
            self.seconds += time.perf_counter() - start
            if part is None:
                return
            yield part


def _align(windows_baseline: Tensor, windows_result: Tensor) -> tuple[int, int, int]:
    """Leading tokens of the baseline's and the result's windows, and the number of text tokens that both end with."""
    width = min(windows_baseline.shape[1], windows_result.shape[1])
    if not torch.equal(windows_baseline[:, -width:], windows_result[:, -width:]):
        raise UsageError(
            "the windows of baseline and result hold different text: cut both from the same text, and make windows "
            "with a BOS one token longer."
        )
    return windows_baseline.shape[1] - width, windows_result.shape[1] - width, width


def _require_same_vocabulary(baseline: PreTrainedModel, result: PreTrainedModel) -> None:
    ours, theirs = (model.config.get_text_config().vocab_size for model in (result, baseline))
    if ours != theirs:
        raise UsageError(
            f"the result has a vocabulary of {ours} tokens and the baseline one of {theirs}: give the model that the "
            "result was made from as baseline."
        )
