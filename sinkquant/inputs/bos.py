"""Whether sequences begin with the BOS token, and how it is put there.

Many models lose their sink when this differs from their training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sinkquant.errors import UsageError, unknown

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

SETTINGS = ("auto", "always", "never")


def bos_policy(setting: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """True when every sequence is to begin with BOS; 'auto' does what the tokenizer does by itself.

    Raises UsageError for an unknown setting, or for 'always' with a tokenizer that has no BOS token.
    """
    if setting not in SETTINGS:
        raise unknown("BOS policy", setting, SETTINGS)
    if setting == "always":
        bos_token_id(tokenizer)
        return True
    return setting == "auto" and _prepends_bos(tokenizer)


def bos_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of BOS; raises UsageError when the tokenizer has none."""
    if tokenizer.bos_token_id is None:
        raise UsageError("this tokenizer has no BOS token to begin a text with: choose the BOS policy auto or never.")
    return int(tokenizer.bos_token_id)


def in_front(rows: Tensor, tokens: int | Sequence[int] | None) -> Tensor:
    """`rows` (N, T) with the same tokens in front of each: (N, P + T); as they are where there are none."""
    tokens = [] if tokens is None else [tokens] if isinstance(tokens, int) else list(tokens)
    if not tokens:
        return rows
    import torch

    return torch.cat([rows.new_tensor(tokens).expand(len(rows), -1), rows], dim=1)


def _prepends_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
