"""The absorption test on samples that are more than text: which tokens in front of it take its sinks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Roles
from sinkquant.sinks.absorption import Texts, choose_prefix, residual_sinks
from sinkquant.sinks.classify import agreement, choose_threshold, sink_tokens, sweep_thresholds
from sinkquant.sinks.observe import Observation, observe_stacks
from sinkquant.sinks.report import PrefixChoice, ResidualSink, Trial
from sinkquant.tasks.task import Task


@dataclass(frozen=True, eq=False)
class SampleTest:
    """`batch`: held-out samples without BOS, `usual` what precedes their text. `known`: what was seen
    behind each front, whatever the threshold."""

    model: Any
    roles: Roles
    task: Task
    batch: Batch
    usual: tuple[int, ...]
    threshold: float
    known: dict[tuple[int, ...], tuple[Trial, Observation]] = field(default_factory=dict)

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
        if front not in self.known:
            self.known[front] = self._look(front)
        return self.known[front]

    def _look(self, front: tuple[int, ...]) -> tuple[Trial, Observation]:
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


def shift_of(task: Task, model: Any, batch: Batch, front: tuple[int, ...], answers: Tensor) -> float:
    """KL in nats a token of the answers behind `front` against `answers` (n, classes), log-probabilities: what the
    tokens say by themselves."""
    got = torch.cat([part for part, _ in task.scored(model, task.fronted(batch, front))])
    return float((answers.exp() * (answers - got)).sum(-1).mean())


def absorb(
    model: Any, roles: Roles, task: Task, batch: Batch, leading: Sequence[int], usual: tuple[int, ...], texts: Texts
) -> tuple[PrefixChoice, tuple[ResidualSink, ...]]:
    """The prefix for `batch`, and what it leaves: of the tokens `leading` that take any sinks the one that changes the
    answers least, since samples are short and begin with a question. One token, as every other says more."""
    test = SampleTest(model, roles, task, batch, usual, threshold=1.0)
    _, plain = test.run_without()
    sweep = sweep_thresholds(plain.residual_ratio)
    test = replace(test, threshold=choose_threshold(sweep, agreement(plain.residual_ratio, plain.received)))
    (without, _), tokens = test.run_without(), dict.fromkeys(leading)
    first = next(iter(tokens))
    if len(tokens) > 1:
        answers = torch.cat([part for part, _ in task.scored(model, task.fronted(batch, usual))])
        shifts = {token: shift_of(task, model, batch, (token,), answers) for token in tokens}
        ranked = sorted(shifts, key=lambda token: shifts[token])
        takes = (token for token in ranked if test.run((token,))[0].sinks_left < without.sinks_left)
        first = next(takes, ranked[0])
    choice, behind = choose_prefix(test, [first], texts, 1)
    return choice, residual_sinks(behind, test.threshold, texts)
