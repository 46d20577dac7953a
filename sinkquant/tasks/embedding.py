"""Models whose answer to a text is one vector: encoders, and decoders that are used like them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.bos import bos_policy
from sinkquant.models.json_file import read_object
from sinkquant.models.stubs import call_model
from sinkquant.tasks.causal_lm import token_probe
from sinkquant.tasks.masked_lm import real_tokens, singles
from sinkquant.tasks.pooling import AGAIN, folder_of, modules, pool, pooling_modes
from sinkquant.tasks.sentence_data import IDS, first_and_last, joined, read_sentence_data, shortened
from sinkquant.tasks.task import Ask, Data, Task

if TYPE_CHECKING:
    from pathlib import Path

    from sinkquant.models.roles import Roles
    from sinkquant.models.source import Source

LIMITS = "sentence_bert_config.json"
DENSE = ("Dense", "LSTM", "CNN", "WeightedLayerPooling")
"""Modules of sentence-transformers that compute with weights of their own."""


class Embedding(Task):
    """The vector is the mean of the last hidden states, or what the files of sentence-transformers say.

    A token that decoders want in front of every text is context, and no part of the vector.
    """

    name = "embedding"
    words = "embedding model"
    auto = "AutoModel"
    metrics = ("cosine", "low_cosine", "neighbours")
    prefixes = True
    counts = "texts"
    answers_are = "features"

    def takes(self, config: Any) -> bool:
        """Models of text, which are not pairs of an encoder and a decoder."""
        parts = getattr(config, "sub_configs", {})
        return isinstance(getattr(config, "vocab_size", None), int) and not config.is_encoder_decoder and not parts

    def processor(self, source: Source) -> Any:
        """The tokenizer."""
        from sinkquant.models.load import load_tokenizer

        return load_tokenizer(source)

    def probe(self, model: Any, samples: int = 1) -> Batch:
        """Seven different tokens."""
        return token_probe(model, samples)

    def read(self, ask: Ask, processor: Any, model: Any, roles: Roles) -> Data:
        """Padded sentences with the tokenizer's special tokens, of which BOS is taken off: `begun` puts it there."""
        folder = folder_of(model)
        pooling_modes(folder)  # what nobody knows is an error before the work
        texts = read_sentence_data(ask, processor, model, roles, _longest(folder))
        notes = (*texts.notes, *_behind(folder))
        bos = processor.bos_token_id
        if not _causal(roles) or bos is None:
            return Data(texts.calibration, texts.held_out, notes)
        begin = bos if bos_policy(ask.bos, processor) else None
        return Data(_without(texts.calibration, bos), _without(texts.held_out, bos), notes, begin)

    def begun(self, batches: Batches, begin: int | None) -> Batches:
        """With `begin` in front, seen and not counted."""
        return batches if begin is None else replace(batches, items=tuple(_begun(one, begin) for one in batches))

    @torch.no_grad()
    def answer(self, model: Any, batch: Batch) -> Tensor:
        """One vector a text, (N, D) float32."""
        states = call_model(model, batch).last_hidden_state
        modes = pooling_modes(folder_of(model))
        return pool(states.float(), counted(batch).to(states.device), modes)

    @torch.no_grad()
    def alone(self, model: Any, batch: Batch, prefix: tuple[int, ...] = ()) -> Tensor:
        """Text by text without padding, `prefix` in context in front of every one."""
        modes, answers = pooling_modes(folder_of(model)), []
        for one in singles(batch):
            front = one.tensors[IDS].new_tensor(prefix)[None]
            tensors = {n: torch.cat([front if n == IDS else front * 0, t], 1) for n, t in one.tensors.items()}
            states = call_model(model, Batch(tensors)).last_hidden_state[:, len(prefix) :].float()
            answers.append(pool(states, counted(one).to(states.device), modes))
        return torch.cat(answers)

    def few(self, batches: Batches) -> Batch:
        """A long text and a short one."""
        return first_and_last(batches[0])

    def pieces(self, batches: Batches, length: int, tokens: int | None = None) -> Batches:
        """All texts one behind the other, cut into equal pieces."""
        ids = joined(batches)
        length = min(length, len(ids))
        ids = ids[: max(1, min(len(ids), tokens or len(ids)) // length) * length]
        return Batches((Batch({IDS: ids.view(-1, length)}),), batches.source)

    def beginnings(self, batches: Batches, length: int, tokens: int) -> Batch:
        """At most `length` tokens of each."""
        return shortened(batches[0][: max(1, tokens // length)], length)


def counted(batch: Batch) -> Tensor:
    """The tokens (N, T) bool that the vectors are made of; those of `begin` have a label that takes them out."""
    return real_tokens(batch) if batch.labels is None else real_tokens(batch) & batch.labels.bool()


def _begun(batch: Batch, begin: int) -> Batch:
    """Labels are 0 where a token is context alone."""
    ids, first = batch.tensors[IDS], (slice(None), slice(0, 1))
    real = real_tokens(batch)
    tensors = {name: torch.cat([torch.ones_like(t[first]), t], 1) for name, t in batch.tensors.items()}
    tensors[IDS] = torch.cat([torch.full_like(ids[first], begin), ids], 1)
    seen = torch.cat([torch.ones_like(real[first]), real], 1)
    labels = torch.cat([torch.zeros_like(real[first]), real], 1)
    return replace(batch, tensors=tensors, real={IDS: seen}, labels=labels)


def _without(batches: Batches, begin: int) -> Batches:
    """The texts without `begin` in front, where the tokenizer put it there."""
    if any((batch.tensors[IDS][:, 0] != begin).any() for batch in batches):
        return batches
    return replace(batches, items=tuple(batch.map(lambda tensor: tensor[:, 1:]) for batch in batches))


def _causal(roles: Roles) -> bool:
    return all(stack.causal for stack in roles.stacks)


def _longest(folder: Path | None) -> int | None:
    """Most tokens of a text, where the files of sentence-transformers say so."""
    if folder is None or not (folder / LIMITS).is_file():
        return None
    length = read_object(folder / LIMITS, AGAIN).get("max_seq_length")
    if length is not None and (not isinstance(length, int) or length < 1):
        raise UsageError(f"{folder / LIMITS} has max_seq_length {length!r}: {AGAIN}.")
    return length


def _behind(folder: Path | None) -> Iterator[str]:
    named = [kind for kind, _ in modules(folder) if kind in DENSE]
    if named:
        yield f"what stands behind the pooling ({', '.join(named)}) stays as it is, and figures are of what it is given"


EMBEDDING = Embedding()
