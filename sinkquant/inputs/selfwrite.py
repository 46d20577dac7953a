"""Calibration text that the model writes itself, so that no data is needed (LLM-QAT, arXiv 2305.17888, section 2.1)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sinkquant.inputs.bos import bos_policy, bos_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PASSAGE = 256  # tokens; small models lose the thread in longer ones, and more passages are more topics
BATCH = 32  # passages written at once: bounds the memory of the cache
MIN_P = 0.002  # tokens below this share of the likeliest one are never drawn; unlike top-p it needs no sorting

# What a passage starts with where BOS does not stand in front: frequent first words, so that the rest is ordinary text.
STARTERS = ("The", "In", "A", "It", "This", "When", "For", "I", "He", "She", "They", "We", "As", "After", "On", "There")


def self_generated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: int,
    length: int,
    seed: int,
) -> Tensor:
    """Sample ids (sequences, length) int64 at temperature 1: passages of up to `PASSAGE` tokens, one behind the other.

    A passage starts where the model is at home: behind BOS where the tokenizer puts it, which is then left out, else
    with one of `STARTERS`. Special tokens are never drawn, so that every passage
    is full. The same seed, model and device give the same ids (on the CPU); the global random state is left as it was.
    """
    size = min(PASSAGE, length)
    starts, known = _starts(tokenizer, -(-length // size) * sequences, seed)
    # manual_seed below reaches every device, so every device's state is put back.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        written = [_write(model, tokenizer, batch, known + size)[:, known:] for batch in starts.split(BATCH)]
    return torch.cat(written).reshape(sequences, -1)[:, :length]  # (N, T)


def _starts(tokenizer: PreTrainedTokenizerBase, count: int, seed: int) -> tuple[Tensor, int]:
    """First ids (count, 1), and how many of them are not part of the text."""
    if bos_policy("auto", tokenizer):
        return torch.full((count, 1), bos_token_id(tokenizer)), 1
    starters = tokenizer(list(STARTERS), add_special_tokens=False)["input_ids"]
    return torch.tensor([ids[:1] for ids in random.Random(seed).choices(starters, k=count)]), 0


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, start: Tensor, length: int) -> Tensor:
    """`start` (N, 1) continued to (N, length)."""
    more = length - start.shape[1]
    if more == 0:
        return start
    start = start.to(model.device)
    ids: Tensor = model.generate(  # type: ignore[operator]  # a causal model has it, its base class has not
        start,
        attention_mask=torch.ones_like(start),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_p=MIN_P,
        repetition_penalty=1.0,
        suppress_tokens=list(tokenizer.all_special_ids),
        min_new_tokens=more,
        max_new_tokens=more,
    )
    return ids.cpu()
