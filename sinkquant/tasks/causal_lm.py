"""Decoders of text: token ids go in, a choice of the next token comes out at every position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.bos import in_front
from sinkquant.tasks.next_token import chunk_rows, head_is_separate, token_logprobs
from sinkquant.tasks.task import IGNORED, Ask, Data, Task

if TYPE_CHECKING:
    from sinkquant.models.roles import Roles
    from sinkquant.models.source import Source

TEXT = """\
In the year 1846 the lighthouse on the northern cape was lit for the first time. Its keeper wrote down the weather, the
ships and the price of oil; 3 of his 12 books are left. "The sea was calm," he says of the first night, "and I slept."

def depth(tree):
    return 1 + max((depth(branch) for branch in tree), default=0)
"""
"""Prose, figures and code of the project's own: no word of anybody's calibration text goes into a checkpoint."""
LENGTH = 96
"""Most text tokens of a probe."""
IDS, MASK = "input_ids", "attention_mask"
TOKENS = 7  # of the probe: a prime, so that no dimension of a model is mistaken for the token axis
SHORT = 48  # tokens of the samples that exactness is checked on
PADDED = 5


class CausalLM(Task):
    """Decoders of text, and models that answer in text about something else, as far as text goes."""

    name = "causal-lm"
    words = "causal language model"
    auto = "AutoModelForCausalLM"
    metrics = ("perplexity",)
    prefixes = True
    keeps_answers = False
    at_once = 1

    def processor(self, source: Source) -> Any:
        """The tokenizer."""
        from sinkquant.models.load import load_tokenizer

        return load_tokenizer(source)

    def probe(self, model: Any, samples: int = 1) -> Batch:
        """Seven different tokens."""
        return token_probe(model, samples)

    def read(self, ask: Ask, processor: Any, model: Any, roles: Roles) -> Data:
        """Sequences of equal length, cut from text at even distances; the last ones are for the proof."""
        from sinkquant.tasks.text_data import read_text

        return read_text(ask, processor, model, roles)

    def probe_ids(self, processor: Any, begin: int | None) -> list[int]:
        """The tokens of a short text, at most LENGTH, behind `begin` where the model is to see one."""
        ids: list[int] = processor(TEXT, add_special_tokens=False)["input_ids"][:LENGTH]
        return ids if begin is None else [begin, *ids]

    def probed(self, model: Any, ids: list[int]) -> tuple[list[int], Tensor, Tensor]:
        """The loss of every token but the first, and all logits."""
        logits = self.answer(model, Batch({IDS: torch.tensor([ids])})).cpu()  # (T, V)
        losses = torch.nn.functional.cross_entropy(logits[:-1].double(), torch.tensor(ids[1:]), reduction="none")
        return ids, losses, logits

    def begun(self, batches: Batches, begin: int | None) -> Batches:
        """With BOS in front, and labels: all tokens but the first of the text, which nothing but BOS would predict."""
        return Batches(tuple(_begun(b.tensors[IDS], begin) for b in batches), batches.source, batches.said)

    def few(self, batches: Batches) -> Batch:
        """Two short rows of text, the second padded on the left."""
        ids = batches[0].tensors[IDS]
        rows = ids[:1, : 2 * SHORT].reshape(2, -1) if ids.shape[1] >= 2 * SHORT else ids[:1].repeat(2, 1)
        rows, mask = rows.clone(), torch.ones_like(rows)
        rows[1, :PADDED], mask[1, :PADDED] = 0, 0
        return Batch({IDS: rows, MASK: mask}, {IDS: mask.bool()})

    def answer(self, model: Any, batch: Batch) -> Tensor:
        """Logits at the real tokens, (n, V) float32."""
        batch = batch.to(model.device)
        with torch.no_grad():
            logits = model(**batch.tensors, use_cache=False).logits
        mask = batch.real.get(IDS)
        return logits.flatten(0, 1).float() if mask is None else logits[mask].float()

    def alone(self, model: Any, batch: Batch, prefix: tuple[int, ...] = ()) -> Tensor:
        """Row by row without padding, `prefix` in context in front of every row's text."""
        batch = batch.to(model.device)
        ids, mask, outputs = batch.tensors[IDS], batch.real.get(IDS), []
        with torch.no_grad():
            for row, real in zip(ids, torch.ones_like(ids).bool() if mask is None else mask, strict=True):
                text = torch.cat([row.new_tensor(prefix), row[real]])
                outputs.append(model(input_ids=text[None], use_cache=False).logits[0, len(prefix) :].float())
        return torch.cat(outputs)

    def pieces(self, batches: Batches, length: int, tokens: int | None = None) -> Batches:
        """Sequences cut into pieces, at most `tokens` tokens in all and one piece at least; ends are dropped."""
        cut = torch.cat([_cut(b.tensors[IDS], length) for b in batches])
        cut = cut if tokens is None else cut[: max(1, tokens // cut.shape[1])]
        return Batches((Batch({IDS: cut}),), batches.source)

    def beginnings(self, batches: Batches, length: int, tokens: int) -> Batch:
        """At most `length` tokens of each."""
        ids = batches[0].tensors[IDS]
        length = min(length, ids.shape[1])
        rows = min(len(ids), max(1, tokens // length))
        return Batch({IDS: ids[:: len(ids) // rows][:rows, :length]})

    def scored(self, model: Any, batch: Batch) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Log-probabilities and labels of the tokens that have one, window by window, chunk by chunk."""
        assert batch.labels is not None
        separate, chunk = head_is_separate(model, batch.tensors[IDS]), chunk_rows(model)
        for ids, labels in zip(batch.tensors[IDS], batch.labels, strict=True):
            where = (labels != IGNORED).nonzero().flatten()
            first, last = int(where[0]), int(where[-1]) + 1
            positions = range(first - 1, last - 1)  # the token before a target predicts it
            chunks = token_logprobs(model, ids[None], positions, chunk=chunk, separate_head=separate)
            yield from zip(chunks, labels[first:last].split(chunk), strict=True)


def token_probe(model: Any, samples: int = 1) -> Batch:
    """Seven different tokens a sample."""
    vocabulary = model.config.get_text_config().vocab_size
    return Batch({IDS: (torch.arange(1, samples * TOKENS + 1) * 7919).reshape(samples, TOKENS) % vocabulary})


def _begun(ids: Tensor, begin: int | None) -> Batch:
    ids = in_front(ids, begin)
    labels = ids.clone()
    labels[:, : 1 if begin is None else 2] = IGNORED
    return Batch({IDS: ids}, labels=labels)


def _cut(ids: Tensor, length: int) -> Tensor:
    length = min(length, ids.shape[1])
    return ids[:, : ids.shape[1] // length * length].reshape(-1, length)


CAUSAL_LM = CausalLM()
