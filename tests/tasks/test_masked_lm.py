"""Which tokens are masked."""

from __future__ import annotations

import pytest
import torch

from sinkquant.inputs.sentences import Sentences, sentence_batches
from sinkquant.tasks.masked_lm import masked, singles
from sinkquant.tasks.task import IGNORED
from tests import tiny
from tests.tasks.encoders import CLS, MASK, PAD, SEP, tokenizer


@pytest.fixture
def plain() -> object:
    return sentence_batches(Sentences(("a", *tiny.sentences(300).splitlines()), "here", "read"), tokenizer(), 64)


def test_a_share_of_real_text_is_masked_and_nothing_else(plain: object) -> None:
    made = masked(plain, tokenizer(), 0)  # type: ignore[arg-type]
    text = count = 0
    for before, after in zip(plain, made, strict=True):  # type: ignore[call-overload]
        ids, now, labels = before.tensors["input_ids"], after.tensors["input_ids"], after.labels
        chosen = labels != IGNORED
        assert torch.equal(labels[chosen], ids[chosen]) and bool((now[chosen] == MASK).all())
        assert torch.equal(now[~chosen], ids[~chosen]) and after.real is before.real
        assert bool((ids[chosen] < min(CLS, SEP, PAD)).all())
        assert bool(chosen.any(1).all())  # even of a text of one token
        text += int(before.real["input_ids"].sum() - 2 * len(before))
        count += int(chosen.sum())
    assert 0.14 < count / text < 0.17


def test_the_seed_chooses(plain: object) -> None:
    first, again, other = (masked(plain, tokenizer(), seed) for seed in (0, 0, 1))  # type: ignore[arg-type]
    assert first.digest == again.digest != other.digest


def test_samples_one_by_one_have_no_padding(plain: object) -> None:
    batch = masked(plain, tokenizer(), 0)[0]  # type: ignore[arg-type]
    for row, one in enumerate(singles(batch)):
        kept = batch.real["input_ids"][row]
        assert list(one.tensors) == ["input_ids"] and not one.real
        assert torch.equal(one.tensors["input_ids"][0], batch.tensors["input_ids"][row][kept])
        assert one.labels is not None and batch.labels is not None
        assert torch.equal(one.labels[0], batch.labels[row][kept])
