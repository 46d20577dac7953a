"""Images with their classes, from a folder, a file, rows of a file or a data set, as batches of pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs import classes
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.broken import Broken
from sinkquant.inputs.image_files import GIVE, Entry, find
from sinkquant.inputs.said import Left, number

if TYPE_CHECKING:
    from PIL.Image import Image

UNLABELLED = -100  # the label that losses pass over


@dataclass(frozen=True)
class Images(Sequence["Image"]):
    """Pictures (RGB), opened when they are asked for, since a few hundred photographs fill a memory.

    `labels`: a number each, None where it is unknown. `classes`: names by that number; empty where there are none.
    `said`: a clause on what was read and what was left out.
    """

    entries: tuple[Entry, ...]
    labels: tuple[int | None, ...]
    classes: tuple[str, ...]
    source: str
    said: str

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Image:  # type: ignore[override]
        return self.entries[index].open()

    @property
    def names(self) -> tuple[str, ...]:
        """A name each: the path in the folder, or the row."""
        return tuple(entry.name for entry in self.entries)

    def in_model(self, config: Any) -> Images:
        """The same with the labels of the model that `config` describes, see `classes.in_model`."""
        if not config.id2label:
            labelled = any(label is not None for label in self.labels)
            clause = "; labels are left out, because the model names no classes" if labelled else ""
            return replace(self, labels=(None,) * len(self), classes=(), said=self.said + clause)
        count = len(config.id2label)
        known = classes.in_model(self.classes, config) if self.classes else range(count)
        labels = tuple(known[label] if label is not None and label < len(known) else None for label in self.labels)
        lost = sum(new is None and old is not None for new, old in zip(labels, self.labels, strict=True))
        clause = f"; {number(lost, 'label')} unknown to the model, which has {count} classes" if lost else ""
        return replace(self, labels=labels, classes=tuple(map(str, config.id2label.values())), said=self.said + clause)


def read_images(spec: str | None, *, count: int | None = None, seed: int = 0, column: str | None = None) -> Images:
    """Up to `count` images of `spec`, or all: of every class in turn, in an order that the seed chooses.

    `spec`: a folder, at any depth (classes: `classes.of_folder`), one image, rows of a file (FILE or FILE:COLUMN) or of
    a data set (`hub.DATASET_FORM`). What cannot be read is left out and named in `said`.

    Raises UsageError where no image can be read or none is named, SinkquantError for a data set that does not stream.
    """
    if not spec:
        raise UsageError(f"the model sees images, and none are named: give {GIVE}.")
    if count is not None and count < 1:
        raise UsageError(f"{count} images are too few: ask for at least 1.")
    found = find(spec, count, seed, column)
    chosen, left = _readable(found.entries, count)
    if not chosen:
        raise UsageError(f"no image of {found.source} can be read, {left.said or 'it holds no rows'}: give {GIVE}.")
    labels, names = classes.numbered([entry.label for entry in chosen], found.classes)
    seen = len(set(labels) - {None})
    read = f"{found.source}: {number(len(chosen), 'image')}" + (f" of {number(seen, 'class')}" if seen else "")
    if count is not None and len(chosen) < count:
        read += f", not the {count} asked for"
    said = "; ".join(filter(None, (read, found.said, left.said)))
    return Images(tuple(chosen), labels, names, found.source, said)


def image_batches(images: Images, processor: Any, size: int) -> Batches:
    """All images in batches of `size`: what the image processor makes of them, `pixel_values` (N, 3, H, W) mostly.

    `processor` may be one for images or one that has an `image_processor`. Labels are int64 (N,), -100 where they are
    unknown, and None where all are.

    Raises UsageError where the processor gives images of unequal shapes.
    """
    make = getattr(processor, "image_processor", None) or processor
    labels = None
    if any(label is not None for label in images.labels):
        labels = torch.tensor([UNLABELLED if label is None else label for label in images.labels])
    items = []
    for start in range(0, len(images), size):
        rows = range(start, min(start + size, len(images)))
        try:
            made = make(images=[images[row] for row in rows], return_tensors="pt")
        except ValueError as error:
            reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
            raise UsageError(
                f"the model's image processor does not take the images of {images.source} ({reason}): give images of "
                "one size, or set its size in preprocessor_config.json."
            ) from error
        tensors = {name: value for name, value in made.items() if isinstance(value, Tensor) and len(value) == len(rows)}
        items.append(Batch(tensors, labels=None if labels is None else labels[rows.start : rows.stop]))
    return Batches(tuple(items), images.source, images.said)


def _readable(candidates: Iterator[Entry], count: int | None) -> tuple[list[Entry], Left]:
    """The first `count` that open, and those that do not."""
    chosen: list[Entry] = []
    left = Left()
    while count is None or len(chosen) < count:
        entry = next(candidates, None)
        if entry is None:
            break
        try:
            entry.open()
        except Broken as reason:
            left.add(entry.name, str(reason))
        else:
            chosen.append(entry)
    return chosen, left
