"""The absorption test on samples that are more than text: which tokens in front of it take its sinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Roles
from sinkquant.sinks.absorption import Texts, choose_prefix, residual_sinks
from sinkquant.sinks.classify import agreement, choose_threshold, sink_tokens, sweep_thresholds
from sinkquant.sinks.observe import Observation, observe_stacks
from sinkquant.sinks.report import PrefixChoice, ResidualSink, Trial
from sinkquant.tasks.task import Task


@dataclass(frozen=True, eq=False)
class SampleTest:
    """`batch`: held-out samples without BOS, `usual` what precedes their text."""

    model: Any
    roles: Roles
    task: Task
    batch: Batch
    usual: tuple[int, ...]
    threshold: float

    def run(self, prefix: tuple[int, ...]) -> tuple[Trial, Observation]:
        """Put `prefix` in front of the text; sinks and medians are those of what is behind it, images included."""
        trial, seen = self._seen(prefix)
        seen = seen.text(len(prefix))
        return _counted(trial, seen, self.threshold), seen

    def run_without(self) -> tuple[Trial, Observation]:
        """The samples as they are usually given."""
        trial, seen = self._seen(self.usual)
        return _counted(trial.model_copy(update={"ids": ()}), seen, self.threshold), seen

    def _seen(self, front: tuple[int, ...]) -> tuple[Trial, Observation]:
        stack = self.roles.text
        assert stack is not None
        batch = self.task.fronted(self.batch, front)
        seen = observe_stacks(self.model, self.roles, [batch])[stack.name]
        tokens = self.task.tokens(batch, stack)
        seen = seen if tokens is None else replace(seen, ids=tokens.to(seen.ids.device))
        return Trial(ids=front, sinks_left=0, loss=answers_loss(self.task, self.model, batch)), seen


def _counted(trial: Trial, seen: Observation, threshold: float) -> Trial:
    """The trial with the number of sinks that are left."""
    return trial.model_copy(update={"sinks_left": int(sink_tokens(seen, threshold).sum())})


def answers_loss(task: Task, model: Any, batch: Batch) -> float | None:
    """Mean loss of the labels in nats; None where there are none."""
    if batch.labels is None:
        return None
    scored = ((answers, labels) for answers, labels in task.scored(model, batch) if labels is not None)
    return float(torch.cat([-answers.gather(1, labels[:, None])[:, 0] for answers, labels in scored]).mean())


def absorb(
    model: Any, roles: Roles, task: Task, batch: Batch, candidates: Sequence[int], leading: Sequence[int],
    usual: tuple[int, ...], texts: Texts, max_prefix: int,
) -> tuple[PrefixChoice, tuple[ResidualSink, ...]]:  # fmt: skip
    """The prefix for `batch`, and what it leaves: led by the best of `leading`, then `candidates`, best first."""
    test = SampleTest(model, roles, task, batch, usual, threshold=1.0)
    _, plain = test.run_without()
    sweep = sweep_thresholds(plain.residual_ratio)
    test = replace(test, threshold=choose_threshold(sweep, agreement(plain.residual_ratio, plain.received)))
    left = {token: test.run((token,))[0].sinks_left for token in dict.fromkeys(leading)} if len(leading) > 1 else {}
    first = min(left, key=lambda token: left[token]) if left else leading[0]
    choice, behind = choose_prefix(test, list(dict.fromkeys([first, *candidates])), texts, max_prefix)
    return choice, residual_sinks(behind, test.threshold, texts)
