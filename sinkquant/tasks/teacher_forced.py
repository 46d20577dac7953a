"""Encoder-decoders: what the decoder thinks of every next token while it is told the right ones, and what it writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.decoder import end_tokens, written
from sinkquant.models.load import quiet
from sinkquant.models.roles import Stack
from sinkquant.tasks.next_token import chunk_rows
from sinkquant.tasks.task import IGNORED, Task, Written

DECODED = "decoder_input_ids"
TOKENS = 7  # of the decoder's probe; a prime, and no encoder's probe has as many
SHORT = 48  # tokens of the samples that exactness is checked on
PADDED = 5


class TeacherForced(Task):
    """What such tasks share; a batch has labels, (N, T) of the decoder."""

    metrics = ("perplexity",)
    at_once = 512
    writes = True

    def takes(self, config: Any) -> bool:
        """Models with a decoder of their own; transformers maps decoders that hear to the same classes."""
        return bool(getattr(config, "is_encoder_decoder", False))

    @abstractmethod
    def sources(self, model: Any, samples: int) -> Batch:
        """Samples for the encoder alone that need no data, the same every time."""

    @abstractmethod
    def says(self, processor: Any, ids: Sequence[int]) -> str:
        """What ids say, so that the same words are the same text."""

    def probe(self, model: Any, samples: int = 1) -> Batch:
        """Something for the encoder, and seven different tokens for the decoder."""
        sources, ids = self.sources(model, samples), different(model, samples, TOKENS)
        return Batch({**sources.tensors, DECODED: ids}, {**sources.real, DECODED: torch.ones_like(ids).bool()})

    def few(self, batches: Batches) -> Batch:
        """Two short samples, the second padded behind in every sequence."""
        return _padded(_cut(_twice(batches[0][:2]), SHORT))

    def beginnings(self, batches: Batches, length: int, tokens: int) -> Batch:
        """At most `length` tokens of each side."""
        first = batches[0]
        rows = min(len(first), max(1, tokens // length))
        return _cut(first[:: len(first) // rows][:rows], length)

    def answer(self, model: Any, batch: Batch) -> Tensor:
        """Logits at the decoder's real tokens, (n, V) float32."""
        batch = batch.to(model.device)
        with torch.no_grad():
            logits = model(**batch.tensors, use_cache=False).logits  # (N, T, V)
        return logits[batch.real[DECODED]].float()

    def scored(self, model: Any, batch: Batch) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Where a label asks for a token."""
        assert batch.labels is not None
        batch = batch.to(model.device)
        with torch.no_grad():
            logits = model(**batch.tensors, use_cache=False).logits  # (N, T, V)
        where, chunk = batch.labels != IGNORED, chunk_rows(model)  # type: ignore[operator]
        for part, labels in zip(logits[where].split(chunk), batch.labels[where].split(chunk), strict=True):  # type: ignore[index]
            yield part.float().log_softmax(-1), labels

    def alone(self, model: Any, batch: Batch, prefix: tuple[int, ...] = ()) -> Tensor:
        """Sample by sample, both sides without padding; nothing can stand in front of a text with two sides."""
        assert not prefix
        return torch.cat([self.answer(model, _unpadded(batch[i : i + 1])) for i in range(len(batch))])

    def place(self, model: Any, stack: Stack, index: int, rows: int) -> str:
        """A token of the source, or of what is written."""
        return f"{'source token' if self.hears(model, stack) else 'token'} {index}"

    def hears(self, model: Any, stack: Stack) -> bool:
        """Whether a stack is one of the encoder's."""
        blocks = model.get_submodule(stack.name)
        return any(module is blocks for module in model.get_encoder().modules())

    def written(self, model: Any, processor: Any, batch: Batch) -> list[Written]:
        """Greedily, up to its own end, behind the tokens that no label asks for."""
        assert batch.labels is not None
        encoded = {name: tensor for name, tensor in batch.tensors.items() if name != DECODED}
        given = int((batch.labels[0] != IGNORED).nonzero()[0]) + 1
        with quiet():
            rows = written(model, encoded, batch.tensors[DECODED][0, :given].tolist())
        return [self._written(processor, until_end(row, model)) for row in rows]

    def right(self, model: Any, processor: Any, batch: Batch) -> list[Written]:
        """The labels, and the texts of the batch or what the labels say."""
        assert batch.labels is not None
        rows = [[i for i in row if i != IGNORED] for row in batch.labels.tolist()]
        return [self._written(processor, until_end(row, model)) for row in rows]

    def _written(self, processor: Any, ids: list[int]) -> Written:
        return Written(tuple(ids), self.says(processor, ids))


def different(model: Any, samples: int, count: int) -> Tensor:
    """(samples, count) token ids of the decoder's vocabulary, different as far as there are so many."""
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    return ((torch.arange(1, samples * count + 1) * 7919) % vocabulary).reshape(samples, count)


def _twice(batch: Batch) -> Batch:
    """Two samples at least."""
    if len(batch) > 1:
        return batch
    tensors, real = ({name: torch.cat([t, t]) for name, t in kind.items()} for kind in (batch.tensors, batch.real))
    return Batch(tensors, real)


def _cut(batch: Batch, length: int) -> Batch:
    """The first `length` places of everything that may be padded, without labels; nothing but padding is dropped."""
    ends = {name: max(1, min(length, int(real.sum(1).max()))) for name, real in batch.real.items()}
    return Batch(
        {name: tensor[:, : ends.get(_axis(name, batch), tensor.shape[1])] for name, tensor in batch.tensors.items()},
        {name: real[:, : ends[name]] for name, real in batch.real.items()},
    )


def _axis(name: str, batch: Batch) -> str:
    """The tensor with whose padding a tensor is padded: a mask goes with what it masks."""
    if name.endswith("attention_mask"):
        stem = name.removesuffix("attention_mask")
        return next((other for other in batch.real if other.startswith(f"{stem}input")), name)
    return name


def _padded(batch: Batch) -> Batch:
    """The second sample ends a few tokens earlier in everything that may be padded."""
    tensors = {name: tensor.clone() for name, tensor in batch.tensors.items()}
    real = {name: mask.clone() for name, mask in batch.real.items()}
    for name, mask in real.items():
        mask[1, max(1, int(mask[1].sum()) - PADDED) :] = False
        for other, tensor in tensors.items():
            if _axis(other, batch) == name:
                tensor[1, ~mask[1]] = 0
    return Batch(tensors, real)


def _unpadded(batch: Batch) -> Batch:
    """One sample with what is real of it."""
    return _cut(batch, max((mask.shape[1] for mask in batch.real.values()), default=1))


def until_end(ids: Sequence[int], model: Any) -> list[int]:
    """What stands in front of the first end token."""
    ends = end_tokens(model)
    stop = next((place for place, one in enumerate(ids) if one in ends), len(ids))
    return list(ids[:stop])
