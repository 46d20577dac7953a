"""Calibration text that the model writes itself, so that no data is needed (LLM-QAT, arXiv 2305.17888, section 2.1)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sinkquant.calibration.bos import bos_token_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Where a sequence starts when no BOS is wanted: a frequent first word, so that the rest is ordinary text.
STARTERS = ("The", "In", "A", "It", "This", "When", "For", "I", "He", "She", "They", "We", "As", "After", "On", "There")


def self_generated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: int,
    length: int,
    seed: int,
    bos: bool = False,
) -> Tensor:
    """Sample ids (sequences, length) int64 in one batch, at temperature 1 from the top 0.95 of the probability.

    The first token counts: BOS with `bos=True`, else one of `STARTERS`. The end token is never drawn, so every sequence
    is full. The same seed, model and device give the same ids (on the CPU); the global random state is left as it was.
    """
    if bos:
        first = [bos_token_id(tokenizer)] * sequences
    else:
        starters = tokenizer(list(STARTERS), add_special_tokens=False)["input_ids"]
        first = [ids[0] for ids in random.Random(seed).choices(starters, k=sequences)]
    start = torch.tensor(first, device=model.device)[:, None]  # (N, 1)
    if length == 1:
        return start.cpu()
    # manual_seed below reaches every device, so every device's state is put back.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        ids: Tensor = model.generate(  # type: ignore[operator]  # a causal model has it, its base class has not
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=0.95,
            repetition_penalty=1.0,
            min_new_tokens=length - 1,
            max_new_tokens=length - 1,
        )
    return ids.cpu()  # (N, T)
