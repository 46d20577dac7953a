"""What models write: distances between words, shares of samples, and models that write nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sinkquant.errors import UsageError
from sinkquant.evaluation.written import compare_written, distance, share, word_errors
from sinkquant.inputs.batches import Batches
from sinkquant.tasks.masked_lm import MASKED_LM
from sinkquant.tasks.seq2seq_lm import SEQ2SEQ_LM
from sinkquant.tasks.task import Written
from tests.stacks import pairs

A, B, C = Written((5, 6), "a b"), Written((5,), "a"), Written((7, 8, 9), "c d e")


@pytest.mark.parametrize(("found", "expected", "errors"), [
    ("", "", 0), ("a b c", "a b c", 0), ("", "a b", 2), ("a b", "", 2), ("a x c", "a b c", 1), ("a c", "a b c", 1),
    ("a b b c", "a b c", 1), ("b c d", "a b c", 2), ("c b a", "a b c", 2),
])  # fmt: skip
def test_distances(found: str, expected: str, errors: int) -> None:
    assert distance(found.split(), expected.split()) == errors
    assert distance(expected.split(), found.split()) == errors


def test_errors_are_counted_by_the_words_that_were_expected() -> None:
    assert word_errors([A, B], [B, C]) == (1 + 3) / 4
    assert word_errors([A], [Written((), "")]) == 2


def test_a_share_is_of_samples_with_the_same_ids() -> None:
    assert share([A, B, Written((7, 8, 9), "x")], [A, C, C]) == pytest.approx(2 / 3)


def test_both_models_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, list[Written]] = {"baseline": [A, B], "result": [A, C]}
    monkeypatch.setattr(type(SEQ2SEQ_LM), "written", lambda _self, model, _processor, batch: answers[model])
    monkeypatch.setattr(type(SEQ2SEQ_LM), "right", lambda *_: [B, B])
    found = compare_written(SEQ2SEQ_LM, SimpleNamespace(), "baseline", "result", Batches((pairs(2),)))
    assert found == {"same_output": (None, 0.5), "exact_match": (0.5, 0.0), "word_errors": (0.5, (1 + 3) / 2)}


def test_what_writes_nothing_is_refused() -> None:
    nothing: Any = None
    with pytest.raises(UsageError, match=r"writes nothing.*leave out --write"):
        compare_written(MASKED_LM, nothing, nothing, nothing, Batches((pairs(1),)))
