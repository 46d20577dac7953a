"""Images and the text about them as batches for a model that sees and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.padding import pad_id
from sinkquant.inputs.prompts import prompt
from sinkquant.inputs.told import Told

IDS, MASK = "input_ids", "attention_mask"
IGNORED = -100  # the label that losses pass over


def image_text_batches(samples: Sequence[Told], processor: Any, size: int, source: str, said: str | None) -> Batches:
    """All samples in batches of at most `size`, of samples whose images have tensors of one shape.

    `input_ids` (N, T) and what goes with them are padded behind, which `real` says. Labels (N, T) are the tokens of
    the answers, -100 elsewhere; `texts` the answers in words. Tensors of images have an axis of samples in front,
    which those of `joined` lose when the model is called.

    Raises UsageError where the processor does not take them.
    """
    groups: dict[tuple, list[tuple[Told, Batch]]] = {}
    for sample in samples:
        one = _one(sample, processor)
        key = tuple((name, tensor.shape) for name, tensor in one.tensors.items() if not by_token(name, one))
        groups.setdefault((key, one.joined), []).append((sample, one))
    fill, items = pad_id(getattr(processor, "tokenizer", processor)), []
    for group in groups.values():
        for start in range(0, len(group), size):
            part = group[start : start + size]
            items.append(stacked([one for _, one in part], fill, tuple(sample.answer for sample, _ in part)))
    return Batches(tuple(items), source, said)


def by_token(name: str, batch: Batch) -> bool:
    """Whether the second axis of a tensor is that of the tokens."""
    tensor = batch.tensors[name]
    return name not in batch.joined and tensor.dim() > 1 and tensor.shape[1] == batch.tensors[IDS].shape[1]


def stacked(batches: Sequence[Batch], fill: int, texts: tuple[str, ...] = ()) -> Batch:
    """Samples of unequal length as one batch, padded behind: ids with `fill`, labels with -100, all else with zeros."""
    longest = max(batch.tensors[IDS].shape[1] for batch in batches)
    values = {name: fill if name == IDS else 0 for name in batches[0].tensors}
    tensors = {
        name: torch.cat([
            behind(b.tensors[name], longest, value) if by_token(name, b) else b.tensors[name] for b in batches
        ])
        for name, value in values.items()
    }  # fmt: skip
    labels = [behind(b.labels, longest, IGNORED) for b in batches if b.labels is not None]
    real = tensors[MASK].bool()
    return Batch(tensors, {IDS: real}, torch.cat(labels) if labels else None, texts, joined=batches[0].joined)


def behind(tensor: Tensor, length: int, value: int) -> Tensor:
    """(N, T, …) with `value` behind, up to `length`."""
    more = tensor.new_full((len(tensor), length - tensor.shape[1], *tensor.shape[2:]), value)
    return torch.cat([tensor, more], 1)


def _one(sample: Told, processor: Any) -> Batch:
    """A single sample: the processor sees the whole and what is asked, and what they do not share is the answer."""
    text, images = prompt(sample.turns, sample.answer, len(sample.images), processor), sample.open()
    asked, whole = (_made(processor, one, images, sample.name) for one in text)
    ids = whole[IDS][0]
    front = asked[IDS][0][: len(ids)]
    same = (front == ids[: len(front)]).int().cumprod(0).sum()
    labels = ids.clone()[None]
    labels[0, : int(same)] = IGNORED
    if int(same) >= len(ids) or not int(same):
        raise UsageError(f"the answer of {sample.name} has no tokens of its own: give one that is not empty.")
    joined = frozenset(name for name, tensor in whole.items() if len(tensor) != 1)
    tensors = {name: tensor[None] if name in joined else tensor for name, tensor in whole.items()}
    return Batch(tensors, {IDS: torch.ones_like(ids)[None].bool()}, labels, joined=joined)


def _made(processor: Any, text: str, images: list[Any], name: str) -> Mapping[str, Tensor]:
    try:
        made = processor(
            images=[images], text=[text], return_tensors="pt", add_special_tokens=_special(processor, text)
        )
    except (ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise UsageError(
            f"the model's processor does not take {name} ({reason}): give an image and text that suit it."
        ) from error
    tensors = {key: value for key, value in made.items() if isinstance(value, Tensor)}
    ids = tensors.pop(IDS)
    return {IDS: ids, MASK: tensors.pop(MASK, torch.ones_like(ids)), **tensors}


def _special(processor: Any, text: str) -> bool:
    """Whether the tokenizer puts its own tokens around the text: not where the template has put BOS there."""
    bos = getattr(getattr(processor, "tokenizer", processor), "bos_token", None)
    return not (bos and text.startswith(bos))
