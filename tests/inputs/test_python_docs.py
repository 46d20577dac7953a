from __future__ import annotations

import re

import pytest

from sinkquant.errors import UsageError
from sinkquant.inputs.python_docs import SPLITS, python_docs


@pytest.fixture(scope="module")
def halves() -> dict[str, str]:
    return {split: "".join(python_docs(split)) for split in SPLITS}


def test_the_same_python_gives_the_same_text(halves: dict[str, str]) -> None:
    assert "".join(python_docs()) == halves["calibration"]


def test_no_paragraph_occurs_twice_in_or_across_the_halves(halves: dict[str, str]) -> None:
    paragraphs = [" ".join(p.split()) for text in halves.values() for p in text.split("\n\n") if p.strip()]
    assert len(paragraphs) > 2000
    assert len(paragraphs) == len(set(paragraphs))


def test_the_text_is_clean_prose(halves: dict[str, str]) -> None:
    for text in halves.values():
        assert not re.search(r"\n{3,}", text.rstrip("\n"))
        words = re.findall(r"[a-z]+", text.lower())
        assert words.count("the") / len(words) > 0.03  # English text, about 5 in 100


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'evaluation'"):
        next(python_docs("evaluate"))


def test_each_half_is_long_enough_for_a_calibration(halves: dict[str, str]) -> None:
    for text in halves.values():
        assert len(re.findall(r"\w+|[^\w\s]", text)) >= 60_000  # no tokenizer has fewer tokens
