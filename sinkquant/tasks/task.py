"""What a model is for: the class that loads it, what it is fed, what it answers, and by what that is measured.

Nothing outside tasks/ and inputs/ knows the names of a model's arguments.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from sinkquant.inputs.batches import TOKENS_PER_CALL, Batch, Batches

if TYPE_CHECKING:
    from sinkquant.models.roles import Roles, Stack
    from sinkquant.models.source import Source

PROBED, PROBES = 256, 4  # features that a manifest holds; samples that they are of
IGNORED = -100
"""The label of a place that is not scored, as in transformers."""


class Written(NamedTuple):
    """What a model writes, or should: its ids without start and end, and the words that they are."""

    ids: tuple[int, ...]
    words: str


@dataclass(frozen=True)
class Ask:
    """What data is wanted: the fields of a recipe's calibration section, and how much of it proves the result.

    `front`: the most tokens that will stand in front of a text. `proves`: whether held-out samples must be others than
    those of the calibration, however few there are. `each`: `samples` are counted as they are, where short ones would
    else be taken until they make up as many tokens as sequences of `length` hold.
    """

    source: str | None
    samples: int
    held_out: int
    length: int
    seed: int
    column: str | None = None
    bos: str = "auto"
    front: int = 0
    proves: bool = True
    each: bool = False


@dataclass(frozen=True, eq=False)
class Patches:
    """Which patch of an image stands at every row of a stack: `numbers` (N, R), row by row of the image, -1 where there
    is none, in a grid of so many `columns`."""

    numbers: Tensor
    columns: int


@dataclass(frozen=True, eq=False)
class Data:
    """`calibration`, and other samples that the proof is measured on. `notes`: clauses on both.

    `begin`: the token that every text begins with, which is not in the batches yet; None where there is none.
    """

    calibration: Batches
    held_out: Batches
    notes: tuple[str, ...] = ()
    begin: int | None = None


class Task(ABC):
    """One purpose. Subclasses are registered in `tasks.TASKS` and have no state."""

    name: ClassVar[str]
    words: ClassVar[str]
    """What such a model is called in a sentence, without an article."""
    auto: ClassVar[str]
    """The class of transformers that loads it."""
    metrics: ClassVar[tuple[str, ...]]
    """What results are measured by where a recipe names nothing; the first decides."""
    counts: ClassVar[str] = "tokens"
    """What has an answer each, in the plural."""
    answers_are: ClassVar[Literal["choices", "features"]] = "choices"
    """`choices`: logits over classes or tokens; `features`: vectors that are compared by their angle."""
    at_once: ClassVar[int] = TOKENS_PER_CALL
    """Entries that are scored at once, at most; a sample at least."""
    prefixes: ClassVar[bool] = False
    """Whether every sample begins with text, in front of which decoders can have a prefix."""
    keeps_answers: ClassVar[bool] = True
    """Whether what a model answers on the held-out samples is small enough to keep."""
    writes: ClassVar[bool] = False
    """Whether a model can be asked for a whole text, which `written` and `right` then give."""

    def takes(self, config: Any) -> bool:
        """Whether a model of this configuration is for this task, where its class alone does not say it."""
        return True

    @abstractmethod
    def processor(self, source: Source) -> Any:
        """What turns data into tensors for the model of `source`."""

    @abstractmethod
    def probe(self, model: Any, samples: int = 1) -> Batch:
        """Samples that need no data, the same every time; no two of their sequences have the same length."""

    @abstractmethod
    def read(self, ask: Ask, processor: Any, model: Any, roles: Roles) -> Data:
        """Raises UsageError where the data cannot be read, is too little, or is not what the model takes."""

    @abstractmethod
    def answer(self, model: Any, batch: Batch) -> Tensor:
        """What the model answers at the real places of the batch: (n, classes) or (n, features), float32."""

    def alone(self, model: Any, batch: Batch, prefix: tuple[int, ...] = ()) -> Tensor:
        """The same sample by sample, without any padding, and behind `prefix` where the task is one on text."""
        return torch.cat([self.answer(model, batch[i : i + 1]) for i in range(len(batch))])

    def probe_ids(self, processor: Any, begin: int | None) -> list[int]:
        """Tokens whose losses tell later whether a runtime computes the same model; none where `probe` serves."""
        return []

    def probed(self, model: Any, ids: list[int]) -> tuple[list[int], Tensor, Tensor]:
        """What identifies a model that was written: `ids`, a number for each place, and all answers (n, …).

        The numbers are losses in nats of the classes `ids`, which are the model's own first choices at the time of
        writing (then none are given), or features in units of their standard deviation.
        """
        answers = self.answer(model, self.probe(model, PROBES)).cpu()
        if self.answers_are == "features":
            unit = torch.nn.functional.normalize(answers.double(), dim=-1)
            return [], (unit * answers.shape[-1] ** 0.5).flatten()[:PROBED], answers
        logprobs = answers.double().log_softmax(-1)
        ids = ids or logprobs.argmax(-1).tolist()
        return ids, -logprobs.gather(1, torch.tensor(ids)[:, None])[:, 0], answers

    def few(self, batches: Batches) -> Batch:
        """A few short samples, one of them padded where the task knows padding: what exactness is checked on."""
        return batches.part(0, 2)[0]

    def begun(self, batches: Batches, begin: int | None) -> Batches:
        """The batches with `begin` in front of every text."""
        return batches

    def pieces(self, batches: Batches, length: int, tokens: int | None = None) -> Batches:
        """Samples of at most `length` tokens, as many as `tokens` allow; whole samples where they cannot be cut."""
        return batches

    def beginnings(self, batches: Batches, length: int, tokens: int) -> Batch:
        """The beginnings of some samples, evenly spaced, in one batch of at most `tokens` tokens."""
        return batches.part(0, max(1, tokens // length))[0]

    def scored(self, model: Any, batch: Batch) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Answers and labels of the places that count, in parts: (n, classes) log-probabilities and (n,) classes, or
        (n, features) and None. Never more in memory than a part of them where there are many classes."""
        answers = self.answer(model, batch)
        if self.answers_are == "features":
            yield answers, None
            return
        answers = answers.log_softmax(-1)
        if batch.labels is None:
            yield answers, None
            return
        labels = batch.labels.reshape(-1).to(answers.device)
        yield answers[labels != IGNORED], labels[labels != IGNORED]

    def tokens(self, batch: Batch, stack: Stack) -> Tensor | None:
        """What stands at every row of a stack: (N, T) ids; None where rows are places alone."""
        return None if stack.rows is None else batch.tensors.get(stack.rows)

    def fronted(self, batch: Batch, front: tuple[int, ...]) -> Batch:
        """The batch with the tokens `front` in front of every text, where there is text among other things."""
        raise NotImplementedError

    def mismatched(self, batches: Batches) -> Batches | None:
        """The samples with the images of others, where that is another question; None where it is none."""
        return None

    def patches(self, model: Any, batch: Batch, stack: Stack, rows: int) -> Patches | None:
        """Where images are among the `rows` of a stack beside text; None where they are not, or nobody knows."""
        return None

    def place(self, model: Any, stack: Stack, index: int, rows: int) -> str:
        """One of the `rows` of a stack in words."""
        return f"position {index}"

    def written(self, model: Any, processor: Any, batch: Batch) -> list[Written]:
        """What the model writes for each sample, always the likeliest token."""
        raise NotImplementedError

    def right(self, model: Any, processor: Any, batch: Batch) -> list[Written]:
        """What it should write, by the labels."""
        raise NotImplementedError
