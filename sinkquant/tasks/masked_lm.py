"""Encoders of text that fill gaps: some tokens are masked, and what stood there is predicted from both sides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.models.stubs import call_model
from sinkquant.tasks.causal_lm import token_probe
from sinkquant.tasks.sentence_data import IDS, MASK, first_and_last, read_sentence_data, shortened
from sinkquant.tasks.task import IGNORED, Ask, Data, Task

if TYPE_CHECKING:
    from sinkquant.models.roles import Roles
    from sinkquant.models.source import Source

SHARE = 0.15
"""Of the tokens that are masked, as in training (BERT, arXiv 1810.04805)."""


class MaskedLM(Task):
    """All masked tokens are replaced by the mask token, none by another: every one of them is a gap."""

    name = "masked-lm"
    words = "masked language model"
    auto = "AutoModelForMaskedLM"
    metrics = ("perplexity", "kl", "agreement")
    at_once = 512

    def processor(self, source: Source) -> Any:
        """The tokenizer, which needs a mask token."""
        from sinkquant.models.load import load_tokenizer

        tokenizer = load_tokenizer(source)
        if tokenizer.mask_token_id is None:
            raise UsageError(f"the tokenizer of {source.label} has no mask token: give one with it, or another --task.")
        return tokenizer

    def probe(self, model: Any, samples: int = 1) -> Batch:
        """Seven different tokens."""
        return token_probe(model, samples)

    def read(self, ask: Ask, processor: Any, model: Any, roles: Roles) -> Data:
        """Padded sentences with the tokenizer's special tokens, a share of the others masked, by the seed."""
        texts = read_sentence_data(ask, processor, model, roles)
        calibration, held_out = (masked(part, processor, ask.seed) for part in (texts.calibration, texts.held_out))
        return Data(calibration, held_out, texts.notes)

    def answer(self, model: Any, batch: Batch) -> Tensor:
        """Logits at the real tokens, (n, V) float32."""
        return self._logits(model, batch)[real_tokens(batch)].float()

    def scored(self, model: Any, batch: Batch) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Log-probabilities and labels of the masked tokens."""
        assert batch.labels is not None
        where = batch.labels != IGNORED
        logits = self._logits(model, batch)
        yield logits[where.to(logits.device)].float().log_softmax(-1), batch.labels[where].to(logits.device)

    def few(self, batches: Batches) -> Batch:
        """A long sentence and a short one."""
        return first_and_last(batches[0])

    def alone(self, model: Any, batch: Batch, prefix: tuple[int, ...] = ()) -> Tensor:
        """Sentence by sentence; nothing stands in front of what is read in both directions."""
        return torch.cat([self.answer(model, one) for one in singles(batch)])

    def beginnings(self, batches: Batches, length: int, tokens: int) -> Batch:
        """At most `length` tokens of each."""
        return shortened(batches[0][: max(1, tokens // length)], length)

    @torch.no_grad()
    def _logits(self, model: Any, batch: Batch) -> Tensor:
        return call_model(model, batch).logits


def masked(batches: Batches, tokenizer: Any, seed: int) -> Batches:
    """Labels where tokens are masked: a share of the real ones that are not special, one of every sentence at least."""
    draw = torch.Generator().manual_seed(seed)
    special = torch.tensor(tokenizer.all_special_ids)
    return replace(batches, items=tuple(_masked(b, special, tokenizer.mask_token_id, draw) for b in batches))


def _masked(batch: Batch, special: Tensor, mask: int, draw: torch.Generator) -> Batch:
    ids = batch.tensors[IDS]
    fit = batch.real[IDS] & ~torch.isin(ids, special)
    chance = torch.rand(ids.shape, generator=draw).masked_fill(~fit, 2.0)
    chosen = fit & ((chance < SHARE) | (chance == chance.min(1, keepdim=True).values))
    labels = ids.masked_fill(~chosen, IGNORED)
    return replace(batch, tensors={**batch.tensors, IDS: ids.masked_fill(chosen, mask)}, labels=labels)


def real_tokens(batch: Batch) -> Tensor:
    """(N, T) bool; all where nothing is padded."""
    return batch.real.get(IDS, torch.ones_like(batch.tensors[IDS], dtype=torch.bool))


def singles(batch: Batch) -> Iterator[Batch]:
    """The samples one by one, without padding and without a mask."""
    for row in range(len(batch)):
        one = batch[row : row + 1]
        kept = real_tokens(one)[0]
        one = one.map(lambda tensor, kept=kept: tensor[:, kept])  # type: ignore[misc]
        yield replace(one, tensors={name: tensor for name, tensor in one.tensors.items() if name != MASK}, real={})


MASKED_LM = MaskedLM()
