"""Calibration tokens: any text source becomes equally long sequences of token ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.selfwrite import self_generated
from sinkquant.inputs.sources import SELF, open_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MIN_TOKENS = 32  # below this, ranges and sinks say nothing about the model
SPREAD = 20  # times the tokens that are wanted are read of a long text: neighbours tell the same story
MOST = 300_000  # tokens that are read for it at most
MARGIN = 64  # tokens thrown away where the text was cut
CHARACTERS_PER_TOKEN = 5  # first guess; more than most tokenizers give on English


@dataclass(frozen=True, eq=False)
class TokenBatches:
    """Token sequences and where they come from.

    ids: (N, T) int64, without BOS. said: a clause on what was read.
    """

    ids: Tensor
    source: str
    said: str | None = None


def load_calibration(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sequences: int,
    length: int,
    seed: int,
    model: PreTrainedModel | None = None,
    column: str | None = None,
) -> TokenBatches:
    """Read `source` (see `sources.open_text`, or 'self') into up to `sequences` sequences of `length` tokens.

    The text (of a long one, the first tokens: 20 times as many as wanted, at most 300 000 unless more are wanted) is
    tokenised as a whole, without special tokens, and cut into windows, of which `sequences` are taken at even
    distances: windows next to each other would all be of one topic.
    'self' needs the model, which writes the text.

    Raises UsageError for a text that is empty or too short for one sequence.
    """
    if sequences < 1 or length < 2:
        raise UsageError(f"cannot cut text into {sequences} sequences of {length} tokens: ask for at least 1 of 2.")
    if source == SELF:
        if model is None:
            raise UsageError("the source 'self' needs a model to write the text: pass the model, or use python-docs.")
        if column is not None:
            raise UsageError(f"the source 'self' has no columns, so {column!r} cannot be read: leave the column out.")
        return TokenBatches(self_generated(model, tokenizer, sequences, length, seed), source)

    wanted = sequences * length
    with closing(open_text(source, tokenizer, seed, column)) as pieces:
        tokens = first_tokens(pieces, tokenizer, max(wanted, min(SPREAD * wanted, MOST)))
        said = pieces.said
    if len(tokens) < max(length, MIN_TOKENS):
        raise UsageError(
            f"the text of {source} has {len(tokens)} tokens, fewer than one sequence of {max(length, MIN_TOKENS)}: "
            "give a longer text or a shorter calibration length."
        )
    available = len(tokens) // length
    found = min(sequences, available)
    starts = [i * available // found * length for i in range(found)]
    return TokenBatches(torch.tensor([tokens[start : start + length] for start in starts]), source, said)


def first_tokens(pieces: Iterator[str], tokenizer: PreTrainedTokenizerBase, count: int) -> list[int]:
    """The first `count` tokens of the joined pieces, without special tokens; fewer when the text ends before.

    Only the beginning of the text is tokenised: it ends where a piece ends and grows until it gives `MARGIN` tokens
    more than wanted, because the last tokens before the cut may be others than in the whole text.
    """
    text, size, complete = "", CHARACTERS_PER_TOKEN * (count + MARGIN), False
    while True:
        parts, held = [text], len(text)
        while held < size and not complete:
            piece = next(pieces, None)
            complete = piece is None
            parts.append(piece or "")
            held += len(parts[-1])
        text = "".join(parts)
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if complete or len(ids) >= count + MARGIN:
            return list(ids[:count])
        size = 2 * held
