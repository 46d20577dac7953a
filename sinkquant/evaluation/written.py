"""What two models write, word by word: encoder-decoders are used by it, and a small KL may still change it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batches
from sinkquant.tasks.task import Task, Written

AT_ONCE = 4096  # entries of the samples that are written for together
Figures = dict[str, tuple[float | None, float]]


def compare_written(task: Task, processor: Any, baseline: Any, result: Any, batches: Batches) -> Figures:
    """Figures of the baseline and the result, of everything in `batches`, each always taking the likeliest token.

    `same_output`: the share (0…1) of samples for which both write the same ids; `exact_match`: of those for which a
    model writes what the labels ask for; `word_errors`: see `word_errors`. Raises UsageError where nothing is written.
    """
    if not task.writes:
        raise UsageError(f"a {task.words} writes nothing that could be compared: leave out --write.")
    theirs, ours, right = list[Written](), list[Written](), list[Written]()
    for batch in batches.cut(AT_ONCE):
        theirs += task.written(baseline, processor, batch)
        ours += task.written(result, processor, batch)
        right += task.right(baseline, processor, batch)
    return {
        "same_output": (None, share(theirs, ours)),
        "exact_match": (share(theirs, right), share(ours, right)),
        "word_errors": (word_errors(theirs, right), word_errors(ours, right)),
    }


def share(found: Sequence[Written], expected: Sequence[Written]) -> float:
    """Share (0…1) of samples with the same ids."""
    return sum(a.ids == b.ids for a, b in zip(found, expected, strict=True)) / len(found)


def word_errors(found: Sequence[Written], expected: Sequence[Written]) -> float:
    """The word error rate: words put in, left out or put in place of others, by the words that were expected."""
    wrong = sum(distance(a.words.split(), b.words.split()) for a, b in zip(found, expected, strict=True))
    return wrong / max(1, sum(len(b.words.split()) for b in expected))


def distance(found: Sequence[str], expected: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions between two sequences (Levenshtein)."""
    before = list(range(len(expected) + 1))
    for row, word in enumerate(found, start=1):
        now = [row]
        for column, other in enumerate(expected, start=1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (word != other)))
        before = now
    return before[-1]
