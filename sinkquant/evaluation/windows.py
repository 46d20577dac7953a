"""Text cut into windows of tokens: what every figure of an evaluation is measured on."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sinkquant.errors import UsageError
from sinkquant.inputs.bos import in_front

SHORTEST = 32
"""Fewest text tokens that make a window of their own: with fewer a perplexity says nothing."""


def text_windows(
    text: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    window: int,
    max_windows: int | None = None,
    max_tokens: int | None = None,
    bos_id: int | None = None,
) -> Tensor:
    """Consecutive full windows of the tokenised text: (N, window) int64.

    The text is tokenised as a whole and without special tokens. With `bos_id` every window is that token followed by
    `window - 1` text tokens, so windows of W with a BOS and windows of W - 1 without one hold the same text.
    `max_tokens` counts text tokens. A rest that fills no window is dropped; a text shorter than one window becomes one
    short window when it has at least 32 tokens.

    Errors: `UsageError` for a window below 2 tokens, a limit below 1, or a text that is too short.
    """
    if window < 2:
        raise UsageError(f"a window of {window} tokens leaves nothing to score: give at least 2.")
    for name, limit in (("max_windows", max_windows), ("max_tokens", max_tokens)):
        if limit is not None and limit < 1:
            raise UsageError(f"{name} is {limit}: give at least 1, or leave it out to use the whole text.")

    # verbose=False: a text longer than the model's context is what is wanted here, not a reason for a warning
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:max_tokens]
    width = window if bos_id is None else window - 1
    if len(tokens) < width:
        width = _short_width(len(tokens), window)
    count = len(tokens) // width
    if max_windows is not None:
        count = min(count, max_windows)
    windows = torch.tensor(tokens[: count * width], dtype=torch.int64).view(count, width)
    return in_front(windows, bos_id)


def _short_width(tokens: int, window: int) -> int:
    if tokens < SHORTEST:
        raise UsageError(
            f"{tokens} tokens of text do not fill a window of {window}: give a text, and a token limit if any, "
            f"of at least {SHORTEST} tokens."
        )
    return tokens
