"""Models that see images and write of them: what they think of every next token of the right answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.bos import bos_token_id
from sinkquant.inputs.image_text import IDS, MASK, by_token, image_text_batches
from sinkquant.inputs.sources import INPUTS, SELF
from sinkquant.models.stubs import call_model
from sinkquant.tasks.next_token import chunk_rows
from sinkquant.tasks.parts import portions
from sinkquant.tasks.picture_probe import image_id, picture_probe, tower_grid
from sinkquant.tasks.task import IGNORED, Ask, Data, Patches, Task

if TYPE_CHECKING:
    from sinkquant.models.roles import Roles, Stack
    from sinkquant.models.source import Source

AT_ONCE = 8  # samples of a batch
PADDED = 5


class ImageText(Task):
    """The answer's tokens are scored, told the ones before them; image, question and template are context."""

    name = "image-text"
    words = "vision-language model"
    auto = "AutoModelForImageTextToText"
    metrics = ("perplexity", "kl", "agreement")
    prefixes = True
    at_once = 1024

    def takes(self, config: Any) -> bool:
        """Models with a part that sees, and no encoder-decoders."""
        return hasattr(config, "vision_config") and not getattr(config, "is_encoder_decoder", False)

    def processor(self, source: Source) -> Any:
        """Image processor and tokenizer."""
        from sinkquant.models.load import load_processor

        return load_processor(source, "AutoProcessor")

    def probe(self, model: Any, samples: int = 1) -> Batch:
        """An image between a few tokens."""
        return picture_probe(model, samples)

    def read(self, ask: Ask, processor: Any, model: Any, roles: Roles) -> Data:
        """Images with captions or conversations; `portions` says how many. BOS is taken off: `begun` puts it there."""
        from sinkquant.inputs.told import read_told
        from sinkquant.models.fit import check_text

        source = None if ask.source is None or ask.source == SELF or ask.source in INPUTS else ask.source
        wanted, spare = portions(ask)
        found = read_told(source, count=wanted + spare, seed=ask.seed, column=ask.column)
        if len(found) == 1 and spare:
            raise UsageError(f"{found.source} has one sample, and calibration and proof need one each: give more.")
        if len(found) < wanted + spare:
            spare = min(spare, max(1, len(found) // 4)) if spare else 0
        kept = len(found) - spare
        parts = [
            image_text_batches(samples, processor, AT_ONCE, found.source, found.said)
            for samples in (found.samples[:kept], found.samples[kept:] or found.samples)
        ]
        for part in parts:
            for batch in part:
                check_text(batch.tensors[IDS], model, found.source)
        begin = _begins(ask.bos, getattr(processor, "tokenizer", processor), parts)
        if begin is not None:
            parts = [_without(part, begin) for part in parts]
        notes = (f"calibration on {found.said}" + (f"; the last {spare} prove the result" if spare else ""),)
        return Data(parts[0], parts[1], notes, begin)

    def begun(self, batches: Batches, begin: int | None) -> Batches:
        """With `begin` in front of every text."""
        front = () if begin is None else (begin,)
        return replace(batches, items=tuple(self.fronted(batch, front) for batch in batches))

    def fronted(self, batch: Batch, front: tuple[int, ...]) -> Batch:
        """With the tokens `front` in front of every text."""
        if not front:
            return batch
        ids, rows = batch.tensors[IDS], (slice(None), slice(0, 1))

        def grown(name: str, tensor: Tensor) -> Tensor:
            if not by_token(name, batch):
                return tensor
            if name == IDS:
                return torch.cat([ids.new_tensor(front).expand(len(ids), -1), tensor], 1)
            new = torch.ones_like(tensor[rows]) if name == MASK else torch.zeros_like(tensor[rows])
            return torch.cat([*[new] * len(front), tensor], 1)

        tensors = {name: grown(name, tensor) for name, tensor in batch.tensors.items()}
        seen = torch.ones(len(ids), len(front), dtype=torch.bool, device=ids.device)
        labels = batch.labels
        if labels is not None:
            labels = torch.cat([torch.full_like(seen, IGNORED, dtype=labels.dtype), labels], 1)
        return replace(batch, tensors=tensors, real={IDS: torch.cat([seen, batch.real[IDS]], 1)}, labels=labels)

    @torch.no_grad()
    def answer(self, model: Any, batch: Batch) -> Tensor:
        """Logits at the real tokens, (n, V) float32."""
        logits = call_model(model, batch).logits
        return logits[batch.real[IDS].to(logits.device)].float()

    def alone(self, model: Any, batch: Batch, prefix: tuple[int, ...] = ()) -> Tensor:
        """Sample by sample without padding, `prefix` in context in front of every text."""
        answers = []
        for row in range(len(batch)):
            one = self.fronted(_unpadded(batch[row : row + 1]), prefix)
            answers.append(self.answer(model, one)[len(prefix) :])
        return torch.cat(answers)

    def few(self, batches: Batches) -> Batch:
        """Two samples, of the second of which the last tokens are cut off, and padding put in front."""
        first = max(batches, key=len)[:2]
        first = first if len(first) > 1 else _doubled(first)
        ids, labels = first.tensors[IDS], first.labels
        steps = 1 if labels is None else min(PADDED, int((labels != IGNORED).sum(1).min()))  # no token of an image
        real = first.real[IDS]
        most = int(real.sum(1).min())
        cut = _kept(first, slice(0, most))

        def moved(name: str, tensor: Tensor) -> Tensor:
            if not by_token(name, cut):
                return tensor
            made = tensor.clone()
            made[1] = tensor[1].roll(steps, 0)
            made[1, :steps] = 0
            return made

        mask = torch.ones(len(ids), most, dtype=torch.bool)
        mask[1, :steps] = False
        return replace(
            cut, tensors={name: moved(name, t) for name, t in cut.tensors.items()}, real={IDS: mask}, labels=None,
            texts=(),
        )  # fmt: skip

    def beginnings(self, batches: Batches, length: int, tokens: int) -> Batch:
        """Whole samples: an image has no beginning."""
        return replace(_unpadded(batches[0][:1]), labels=None, texts=())

    @torch.no_grad()
    def scored(self, model: Any, batch: Batch) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Log-probabilities and labels of the answers' tokens."""
        assert batch.labels is not None
        logits = call_model(model, batch).logits[:, :-1]  # (N, T - 1, V)
        labels = batch.labels[:, 1:].to(logits.device)
        where, chunk = labels != IGNORED, chunk_rows(model)
        for part, wanted in zip(logits[where].split(chunk), labels[where].split(chunk), strict=True):
            yield part.float().log_softmax(-1), wanted

    def mismatched(self, batches: Batches) -> Batches | None:
        """Every text with the image of the sample before it in its batch; samples that are alone are left out."""
        items = [_swapped(batch) for batch in batches if len(batch) > 1]
        return replace(batches, items=tuple(items)) if items else None

    def place(self, model: Any, stack: Stack, index: int, rows: int) -> str:
        """A token of the text, or what stands in front of the patches of a tower."""
        if stack.rows is not None:
            return f"position {index}"
        return "CLS" if index == 0 else f"place {index}"

    def patches(self, model: Any, batch: Batch, stack: Stack, rows: int) -> Patches | None:
        """Of the image's tokens in the text, and of a tower that has patches of one size row by row."""
        ids, image = batch.tensors[IDS], image_id(model.config)
        if stack.rows is None:
            grid = tower_grid(model.config)
            front = rows - grid[0] * grid[1]
            if not grid[1] or front < 0 or "image_grid_thw" in batch.tensors:
                return None
            numbers = torch.arange(rows) - front
            return Patches(numbers.clamp_min(-1).expand(len(ids), -1), grid[1])
        if image is None or not bool((ids == image).any()):
            return None
        there = ids == image
        columns = _columns(batch, model.config, int(there.sum(1).max()))
        if columns is None:
            return None
        return Patches((there.cumsum(1) - 1).masked_fill(~there, -1), columns)


def _swapped(batch: Batch) -> Batch:
    tensors = {name: t if by_token(name, batch) else t.roll(1, 0) for name, t in batch.tensors.items()}
    return replace(batch, tensors=tensors)


def _columns(batch: Batch, config: Any, count: int) -> int | None:
    """Columns of the grid that `count` tokens of an image are; None where it is not known."""
    grid = batch.tensors.get("image_grid_thw")
    if grid is not None:
        merge = int(getattr(config.vision_config, "spatial_merge_size", 1))
        return int(grid[0, 0, 2]) // merge
    side = math.isqrt(count)
    return side if side * side == count else None


def _begins(setting: str, tokenizer: Any, parts: list[Batches]) -> int | None:
    """The token in front of every text: BOS where the processor puts it there, or where it is asked for."""
    if setting == "always":
        return bos_token_id(tokenizer)
    bos = tokenizer.bos_token_id
    there = bos is not None and all(bool((batch.tensors[IDS][:, 0] == bos).all()) for part in parts for batch in part)
    return bos if there and setting == "auto" else None


def _without(batches: Batches, begin: int) -> Batches:
    """The texts without `begin` in front, where it is there."""
    if any((batch.tensors[IDS][:, 0] != begin).any() for batch in batches):
        return batches
    return replace(batches, items=tuple(_kept(batch, slice(1, None)) for batch in batches))


def _kept(batch: Batch, columns: slice) -> Batch:
    """Some of the tokens."""
    tensors = {name: t[:, columns] if by_token(name, batch) else t for name, t in batch.tensors.items()}
    labels = None if batch.labels is None else batch.labels[:, columns]
    return replace(batch, tensors=tensors, real={IDS: batch.real[IDS][:, columns]}, labels=labels)


def _unpadded(batch: Batch) -> Batch:
    """One sample with what is real of it."""
    where = batch.real[IDS][0].nonzero().flatten()
    return _kept(batch, slice(int(where[0]), int(where[-1]) + 1))


def _doubled(batch: Batch) -> Batch:
    return batch.map(lambda tensor: torch.cat([tensor, tensor]))


IMAGE_TEXT = ImageText()
