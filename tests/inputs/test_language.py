"""What is language, and what only names things."""

from __future__ import annotations

import inspect
import json

import pytest

from eval.texts import SENTENCES
from sinkquant.inputs.language import is_language
from sinkquant.inputs.python_docs import python_docs

LANGUAGE = [
    *SENTENCES,
    inspect.getsource(json),
    next(python_docs()),
    "2 times 3 is 6. Anna has 4 apples.",
    "The U.S. and/or the E.U. (see https://a.b/c) in 1990 and 2001.",
    "Yes.",
    "x" * 50,
]
NAMES = [
    "5feceb66-ffc8-4f38-a952-786c6d696c79",
    "9f86d081884c7d659a2feaa0c55ad015",
    "identity_5feceb66",
    "https://example.org/some/path?query=1",
    "someone@example.org",
    "corpus/part-0001.jsonl.gz",
    "12 43 1.5 -3e4",
    "2024-01-01 12:00:00",
    "iVBORw0KGgoAAAANSUhEUgAA+/8=",
    "train_00001 train_00002",
    "...",
    "",
]


@pytest.mark.parametrize("text", LANGUAGE)
def test_language(text: str) -> None:
    assert is_language([text])


@pytest.mark.parametrize("text", NAMES)
def test_names_and_numbers(text: str) -> None:
    assert not is_language([text] * 3)
