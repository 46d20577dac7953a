"""The single texts of a run: padded sentences that are calibrated on, and others that the proof is measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.sentences import Sentences, read_sentences, sentence_batches
from sinkquant.models.fit import check_text, longest_text
from sinkquant.models.roles import Roles
from sinkquant.tasks.task import Ask

DEFAULT = "python-docs"
"""Text that is at hand everywhere."""
USUAL = 16  # tokens of a sentence, at least, for how many are read
SIZE = 32  # sentences of a batch
IDS, MASK = "input_ids", "attention_mask"


@dataclass(frozen=True)
class Texts:
    """Tokenized sentences, longest first in each part. `notes`: clauses on both."""

    calibration: Batches
    held_out: Batches
    notes: tuple[str, ...]


def read_sentence_data(ask: Ask, tokenizer: Any, model: Any, roles: Roles, length: int | None = None) -> Texts:
    """Sentences with the tokenizer's special tokens: as many as `ask.samples` sequences of `ask.length` tokens would
    hold, or that many where `ask.each` counts them. `length`: the most tokens of one, beside the model's own limits.

    Raises UsageError for text that cannot be read or has a single sentence, and for ids that the model does not have.
    """
    spec = ask.source or DEFAULT
    limits = (ask.length, length, longest_text(model, roles, ask.front + 1))
    limit = min(one for one in limits if one is not None)
    wanted = ask.samples + ask.held_out
    count = wanted if ask.each else max(2, wanted * ask.length // USUAL)
    found = read_sentences(spec, tokenizer, count=count, seed=ask.seed, column=ask.column)
    sizes = _sizes(found, tokenizer, limit)
    kept, end = _split(sizes, ask, spec)
    parts = [
        sentence_batches(_part(found, sizes, rows), tokenizer, SIZE, limit)
        for rows in (range(kept), range(kept, end) if end > kept else range(kept))
    ]
    for part in parts:
        for batch in part:
            check_text(batch.tensors[IDS], model, spec)
    notes = (f"calibration text from {found.said}",) if found.said and ask.proves else ()
    return Texts(parts[0], parts[1], (*notes, *_few(sizes[:kept], ask, spec)))


def _sizes(found: Sentences, tokenizer: Any, limit: int) -> list[int]:
    """Tokens of every sentence."""
    return [min(limit, len(ids)) for ids in tokenizer(list(found.texts), verbose=False)["input_ids"]]


def _split(sizes: Sequence[int], ask: Ask, spec: str) -> tuple[int, int]:
    """How many sentences are calibrated on, and where those of the proof end; a quarter of too few prove the result."""
    if len(sizes) < 2 and ask.proves:
        raise UsageError(f"{spec} has one text, and calibration and proof need one each: give a source with more.")
    costs = [1] * len(sizes) if ask.each else sizes
    unit = 1 if ask.each else ask.length
    ends = list(accumulate(costs))
    held = max(1, sum(end <= ask.held_out * unit for end in accumulate(reversed(costs)))) if ask.held_out else 0
    held = min(held, max(len(sizes) // 4, int(ask.proves)))
    kept = max(1, min(len(sizes) - held, 1 + sum(end < ask.samples * unit for end in ends)))
    return kept, min(len(sizes), kept + held)


def _part(found: Sentences, sizes: Sequence[int], rows: range) -> Sentences:
    """Some of the sentences, the longest first, so that little is padded."""
    order = sorted(rows, key=lambda row: -sizes[row])
    return Sentences(tuple(found.texts[row] for row in order), found.source, found.said)


def _few(sizes: Sequence[int], ask: Ask, spec: str) -> Iterator[str]:
    wanted = ask.samples if ask.each else ask.samples * ask.length
    have, what = (len(sizes), "texts") if ask.each else (sum(sizes), "tokens of text")
    if ask.proves and have < wanted // 2:
        yield f"{spec} has few texts: {have} {what} are calibrated on where {wanted} were asked for"


def joined(batches: Batches) -> Tensor:
    """All real tokens one behind the other, (n,) int64."""
    return torch.cat([batch.tensors[IDS][batch.real[IDS]] for batch in batches])


def first_and_last(batch: Batch) -> Batch:
    """Two samples of unlike length, the second padded, without entries that neither has."""
    two = replace(batch.map(lambda tensor: tensor[[0, -1]]), texts=())
    return shortened(two, int(two.real[IDS].sum(1).max()))


def shortened(batch: Batch, length: int) -> Batch:
    """The first `length` entries of every sample."""
    return batch.map(lambda tensor: tensor[:, :length])
