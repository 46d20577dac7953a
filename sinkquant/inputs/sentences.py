"""Texts that are read one by one, each a row of a batch: lines, rows of a file, sentences of a longer text."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.padding import pad_id, padded
from sinkquant.inputs.said import number
from sinkquant.inputs.sources import INPUTS, SELF, open_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPREAD = 20  # times the texts that are wanted are read: neighbours tell the same story
SHORTEST, LONGEST = 20, 2000  # characters of a sentence that stands in a longer text
_END = re.compile(r"(?<=[.!?])\s+")
NO_LIMIT = 10**6  # tokenizers without a longest text say a larger number


@dataclass(frozen=True)
class Sentences:
    """Texts, where they come from, and a clause on what was read."""

    texts: tuple[str, ...]
    source: str
    said: str

    def __len__(self) -> int:
        return len(self.texts)


def read_sentences(
    spec: str, tokenizer: PreTrainedTokenizerBase, *, count: int, seed: int = 0, column: str | None = None
) -> Sentences:
    """Up to `count` texts of any text source (`sources.open_text`), chosen by the seed, none of them twice.

    A line of a text file is a text, and so is a row; documents of named sources are cut into sentences.

    Raises UsageError where there is no text, and as `open_text` does.
    """
    if count < 1:
        raise UsageError(f"{count} texts are too few: ask for at least 1.")
    if spec == SELF:
        raise UsageError("the model cannot write its own text, which takes a causal one: give python-docs or a file.")
    with closing(open_text(spec, tokenizer, seed, column)) as pieces:
        found = _sentences(pieces) if spec in INPUTS else (piece.strip() for piece in pieces)
        read = list(islice(_different(found), SPREAD * count))
        columns = pieces.said
    if not read:
        raise UsageError(f"{spec} holds no text: give a file with one text a line, rows with text, or datasets:NAME.")
    chosen = random.Random(seed).sample(read, min(count, len(read)))
    said = f"{spec}: {number(len(chosen), 'text')}"
    if len(chosen) < count:
        said += f", not the {count} asked for"
    return Sentences(tuple(chosen), spec, f"{said}; of {columns}" if columns else said)


def sentence_batches(
    sentences: Sentences, tokenizer: PreTrainedTokenizerBase, size: int, length: int | None = None
) -> Batches:
    """All texts in batches of `size`: `input_ids`, `attention_mask`, `token_type_ids` where the tokenizer gives them.

    Each is (N, T) int64, with the tokenizer's special tokens, texts beyond `length` tokens cut, shorter ones padded
    behind.
    """
    items = []
    for start in range(0, len(sentences), size):
        texts = sentences.texts[start : start + size]
        tensors, real = tokenized(tokenizer, texts, length)
        items.append(Batch(tensors, {"input_ids": real}, texts=texts))
    return Batches(tuple(items), sentences.source, sentences.said)


def tokenized(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """What the tokenizer gives for `texts`, padded behind to (N, T), and which of its ids are real."""
    limit = min(length or NO_LIMIT, tokenizer.model_max_length)
    cut: dict[str, Any] = {} if limit >= NO_LIMIT else {"truncation": True, "max_length": limit}
    made = tokenizer(list(texts), **cut)
    ids, real = padded(made["input_ids"], pad_id(tokenizer))
    tensors = {"input_ids": ids, "attention_mask": real.to(torch.int64)}
    if "token_type_ids" in made:
        tensors["token_type_ids"] = padded(made["token_type_ids"], 0)[0]
    return tensors, real


def _different(texts: Iterator[str]) -> Iterator[str]:
    seen: set[str] = set()
    for text in texts:
        if text and text not in seen:
            seen.add(text)
            yield text


def _sentences(documents: Iterator[str]) -> Iterator[str]:
    for document in documents:
        for paragraph in re.split(r"\n\s*\n", document):
            for sentence in _END.split(" ".join(paragraph.split())):
                if SHORTEST <= len(sentence) <= LONGEST:
                    yield sentence
