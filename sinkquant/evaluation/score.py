"""What a model scores on the samples of its task, place by place; a second one on the same samples, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.evaluation.metric import METRICS, Metric, exp
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.progress import Progress
from sinkquant.tasks.causal_lm import CausalLM
from sinkquant.tasks.task import IGNORED, Task

RESULT = "the result"
"""What messages call a quantized model."""

LOSS = "perplexity"


@dataclass(frozen=True)
class Score:
    """`nll`: mean loss in nats over the `tokens` places that have a label, None without any; `figures` by metric."""

    nll: float | None
    tokens: int
    figures: Mapping[str, float]

    @property
    def perplexity(self) -> float | None:
        return None if self.nll is None else exp(self.nll)


@dataclass
class Tally:
    """Terms of some metrics, gathered part by part."""

    names: Sequence[str]
    terms: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, answers: Tensor, labels: Tensor | None, expected: Tensor | None) -> None:
        """Score one part; a metric without what it is held against is left out."""
        for name in self.names:
            metric = METRICS[name]
            against = expected if against_baseline(metric) else labels
            if against is not None:
                self.terms.setdefault(name, []).append(metric.terms(answers, against).cpu())

    def last(self, name: str) -> Tensor:
        """The terms of a metric in the part that was added last."""
        return self.terms[name][-1]

    def total(self, name: str) -> Tensor | None:
        """All terms (n,) of a metric, None where it has none."""
        return torch.cat(self.terms[name]) if name in self.terms else None

    @property
    def figures(self) -> dict[str, float]:
        """By metric; one that had nothing to be held against is left out."""
        return {name: METRICS[name].value(torch.cat(parts)) for name, parts in self.terms.items()}

    @property
    def places(self) -> int:
        """How many were scored."""
        return max((sum(map(len, parts)) for parts in self.terms.values()), default=0)


def side_by_side(baseline: Score, result: Score) -> dict[str, float]:
    """Every figure of both, by when it was taken and what it is called."""
    figures: dict[str, float] = {}
    for when, found in (("baseline", baseline), ("result", result)):
        if found.perplexity is not None:
            figures[f"{when}_perplexity"] = found.perplexity
        figures |= {f"{when}_{name}": figure for name, figure in found.figures.items()}
    return figures


def against_baseline(metric: Metric) -> bool:
    """Whether a metric compares with the float model; one that does not say compares with labels."""
    return getattr(metric, "against", "labels") == "baseline"


def score(
    task: Task,
    model: Any,
    batches: Batches,
    *,
    progress: Progress | None = None,
    who: str = "the model",
    metrics: Sequence[str] = (),
    reference: Iterable[Tensor] | None = None,
    kept: list[Tensor] | None = None,
) -> Score:
    """Score one model on `batches`.

    `who` is what a message calls the model; `metrics` are measured beside the loss. `reference` are the answers of the
    float model, in the same parts; without them metrics that compare with it are left out. The float model itself is
    held against its own answers, which are put into `kept`, to be the `reference` later.
    Errors: `SinkquantError` where the model's output is not finite.
    """
    tally, expected = Tally(list(dict.fromkeys([LOSS, *metrics]))), iter(reference if reference is not None else ())
    for sample, answers, labels in places(task, model, batches, progress):
        if kept is not None:
            kept.append(answers)
        tally.add(answers, labels, next(expected, None) if kept is None else answers)
        require_finite(tally.last(LOSS) if labels is not None else answers, who, sample)
    loss, figures = tally.total(LOSS), tally.figures
    nll = None if loss is None else float(loss.mean())
    return Score(nll, tally.places, {name: figures[name] for name in metrics if name in figures})


def places(
    task: Task, model: Any, batches: Batches, progress: Progress | None = None
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Number of the sample, answers, labels: `task.scored` over all batches. Features come in one part, as some metrics
    compare samples."""
    gathered: list[Tensor] = []
    done, total = 0, batches.samples
    for batch in batches.cut(task.at_once):
        for answers, labels in task.scored(model, batch):
            if task.answers_are == "features":
                gathered.append(answers)
            else:
                yield done, answers, labels
        done += len(batch)
        if progress is not None:
            progress(done, total)
    if gathered:
        yield 0, torch.cat(gathered), None


def evaluate_one(
    model: Any,
    windows: Tensor,  # (N, T)
    *,
    scored: slice = slice(1, None),
    progress: Progress | None = None,
    who: str = "the model",
    metrics: Sequence[str] = (),
) -> Score:
    """Score a causal language model on windows (N, T) of token ids, every window on its own.

    `scored` selects the positions whose tokens count; it starts at 1 or later, since nothing predicts the first token.
    Errors: `UsageError` for an empty or impossible `scored`, `SinkquantError` where the model's output is not finite.
    """
    batches = Batches((windows_batch(windows, *scored_range(scored, windows.shape[1])),))
    return score(CausalLM(), model, batches, progress=progress, who=who, metrics=metrics)


def windows_batch(windows: Tensor, first: int, last: int) -> Batch:
    """Windows (N, T) of ids of which positions `first` to `last` are scored."""
    labels = torch.full_like(windows, IGNORED)
    labels[:, first:last] = windows[:, first:last]
    return Batch({"input_ids": windows}, labels=labels)


def scored_range(scored: slice, width: int) -> tuple[int, int]:
    """First and one-past-last position that `scored` selects from windows of `width` tokens."""
    first, last, step = scored.indices(width)
    if step != 1 or first < 1 or last <= first:
        raise UsageError(
            f"positions {scored.start}:{scored.stop}:{scored.step} of a window of {width} tokens cannot be scored: "
            "choose a run of positions that starts at 1 or later and is not empty."
        )
    return first, last


def require_finite(terms: Tensor, who: str, sample: int) -> None:
    """Raise SinkquantError for losses or answers that are not; `who`: RESULT, or a model that was not quantized."""
    if not math.isfinite(float(terms.sum())):
        remedy = (
            "quantize it again with more bits" if who == RESULT
            else "its weights or its config.json are damaged, or this text is beyond it; get a clean copy of the model"
        )  # fmt: skip
        raise SinkquantError(f"{who} gives logits that are not finite in window {sample + 1} of the text: {remedy}.")
