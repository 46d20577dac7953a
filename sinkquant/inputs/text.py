"""Calibration tokens: any text source becomes equally long sequences of token ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.bos import bos_token_id
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

    ids: (N, T) int64. mask: (N, T) bool, True = real token. bos: 'added' when every sequence begins with BOS, else
    'none'. digest: 'sha256:…' of shape, ids and mask. note: one sentence when there is less text than was asked for.
    """

    ids: Tensor
    mask: Tensor
    bos: str
    source: str
    digest: str
    said: str | None = None


def load_calibration(
    source: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sequences: int,
    length: int,
    seed: int,
    bos: bool,
    model: PreTrainedModel | None = None,
    column: str | None = None,
) -> TokenBatches:
    """Read `source` (see `sources.open_text`, or 'self') into up to `sequences` sequences of `length` tokens.

    The text (of a long one, the first tokens: 20 times as many as wanted, at most 300 000 unless more are wanted) is
    tokenised as a whole, without special tokens, and cut into windows, of which `sequences` are taken at even
    distances: windows next to each other would all be of one topic.
    With `bos` every sequence is BOS and length - 1 text tokens. 'self' needs the model, which writes the text.

    Raises UsageError for a text that is empty or too short for one sequence, or for `bos` without a BOS token.
    """
    if sequences < 1 or length < 2:
        raise UsageError(f"cannot cut text into {sequences} sequences of {length} tokens: ask for at least 1 of 2.")
    policy = "added" if bos else "none"
    if source == SELF:
        if model is None:
            raise UsageError("the source 'self' needs a model to write the text: pass the model, or use python-docs.")
        if column is not None:
            raise UsageError(f"the source 'self' has no columns, so {column!r} cannot be read: leave the column out.")
        return token_batches(self_generated(model, tokenizer, sequences, length, seed, bos), policy, source)

    first = [bos_token_id(tokenizer)] if bos else []
    window = length - len(first)
    wanted = sequences * window
    with closing(open_text(source, tokenizer, seed, column)) as pieces:
        tokens = first_tokens(pieces, tokenizer, max(wanted, min(SPREAD * wanted, MOST)))
        said = pieces.said
    if len(tokens) < max(window, MIN_TOKENS):
        raise UsageError(
            f"the text of {source} has {len(tokens)} tokens, fewer than one sequence of {max(window, MIN_TOKENS)}: "
            "give a longer text or a shorter calibration length."
        )
    available = len(tokens) // window
    found = min(sequences, available)
    starts = [i * available // found * window for i in range(found)]
    rows = [first + tokens[start : start + window] for start in starts]
    return token_batches(torch.tensor(rows), policy, source, said)  # ids: (N, T)


def token_batches(ids: Tensor, bos: str, source: str, said: str | None = None) -> TokenBatches:
    """Full sequences `ids` (N, T) int64 as TokenBatches, with their digest."""
    mask = torch.ones_like(ids, dtype=torch.bool)
    content = sha256(str(tuple(ids.shape)).encode() + ids.numpy().tobytes() + mask.numpy().tobytes())
    return TokenBatches(ids, mask, bos, source, f"sha256:{content.hexdigest()}", said)


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
