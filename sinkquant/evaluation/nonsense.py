"""Whether a quantized model still says something, and if not, which module broke it.

Low bits cost much, on small models most of all, so only what no use is left of is refused. With the losses b of the
model and r of the result in nats a token, and u = log(vocabulary) of a guess:

- logits that are not finite,
- logits that have nothing in common with the model's (their correlation is below `ALIKE`), which also tells on models
  that know no more than a guess,
- a perplexity of more than `proof.worst` times the model's (r − b > log worst),
- a loss that has come nine tenths of the way to a guess: (r − b) > 0.9 · (u − b), where u − b is at least `KNOWS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.models.record import first_tensor
from sinkquant.tasks.task import Task

TOKENS = 24  # of one row: enough for a correlation, few enough to keep what every module makes of them
ALIKE, WAY, KNOWS = 0.1, 0.9, 0.5


class Nonsense(SinkquantError):
    """The result is of no use."""


@dataclass(frozen=True)
class Reference:
    """What the model made of a few samples before anything was rounded."""

    task: Task
    few: Batch
    answers: Tensor  # (n, classes or features)
    outputs: dict[str, Tensor]  # of every module without parts, by name, in order


def reference(task: Task, model: nn.Module, batches: Batches) -> Reference:
    """Run the beginning of a sample."""
    few = task.beginnings(batches, TOKENS, TOKENS)
    return Reference(task, few, *_run(task, model, few))


def refuse_strange(model: nn.Module, before: Reference) -> None:
    """Raise Nonsense where logits are not finite or unlike the model's."""
    answers, outputs = _run(before.task, model, before.few)
    if not answers.isfinite().all():
        raise Nonsense(_sentence("gives logits that are not finite", before.outputs, outputs))
    likeness = correlation(answers, before.answers)
    if likeness < ALIKE:
        what = f"gives logits that have nothing in common with the model's (correlation {likeness:.2f})"
        raise Nonsense(_sentence(what, before.outputs, outputs))


def refuse_loss(
    model: nn.Module, before: Reference, baseline: float, result: float, vocabulary: int, worst: float | None
) -> None:
    """Raise Nonsense where a loss (nats a token) says so; `worst`: of the perplexities' ratio, None: any will do."""
    guess = math.log(vocabulary)
    if worst is None or not is_nonsense(baseline, result, guess, worst):
        return
    what = f"has perplexity {math.exp(min(result, 700)):.4g} where the model has {math.exp(baseline):.4g}"
    what += f" and a uniform guess {vocabulary}"
    raise Nonsense(_sentence(what, before.outputs, _run(before.task, model, before.few)[1]))


def is_nonsense(baseline: float, result: float, guess: float, worst: float) -> bool:
    """The rule on losses in nats a token; see the module."""
    lost, knowledge = result - baseline, guess - baseline
    return not lost <= math.log(worst) or (knowledge >= KNOWS and lost > WAY * knowledge)


def correlation(a: Tensor, b: Tensor) -> float:
    """Of two logits (T, vocabulary), each row without its mean, which no probability depends on; 0 of constant ones."""
    a, b = (x.double() - x.double().mean(-1, keepdim=True) for x in (a, b))
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(torch.finfo(a.dtype).tiny))


def culprit(before: dict[str, Tensor], after: dict[str, Tensor]) -> str | None:
    """The first module whose output is not finite, constant where it was not, or as wrong as zeros; else the worst."""
    errors = {name: _error(before[name], got) for name, got in after.items() if name in before}
    first = next((name for name, error in errors.items() if not error < 1), None)
    return first or max(errors, key=errors.__getitem__, default=None)


def _error(expected: Tensor, got: Tensor) -> float:
    if expected.shape != got.shape or not expected.any():
        return 0.0  # says nothing
    expected, got = expected.double(), got.double()
    if not got.isfinite().all() or (got.std() == 0 and expected.std() > 0):
        return math.inf
    return float((got - expected).norm() / expected.norm())


def _sentence(what: str, before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    name = culprit(before, after)
    where = "" if name is None else f", {name} is where it begins"
    return (
        f"the quantized model {what}{where}: nothing is written; use more bits or another recipe, or report the model."
    )


def _run(task: Task, model: nn.Module, few: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    with _recorded(model) as outputs:
        answers = task.answer(model, few)
    return answers, outputs


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The first output of every module without parts."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str, result: object) -> None:
        made = first_tensor(result)
        if made is not None and made.is_floating_point():
            outputs.setdefault(name, made.detach().clone())

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    hooks = [
        module.register_forward_hook(lambda _, args, result, name=name: keep(name, result)) for name, module in leaves
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
