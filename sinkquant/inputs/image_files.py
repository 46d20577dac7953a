"""Where images are found, unopened: in a folder, a file, rows of a file or of a data set."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from sinkquant.inputs import classes, folders, media
from sinkquant.inputs.classes import Label
from sinkquant.inputs.pictures import SUFFIXES, picture
from sinkquant.inputs.tables import Table, column_named, open_table

if TYPE_CHECKING:
    from PIL.Image import Image

GIVE = "a folder of images (.jpg, .png …), one image, a file with rows, or datasets:NAME"
SPREAD = 20  # times the images that are wanted are read of a file with rows, which may be sorted by class
IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "png", "webp", *classes.FILE_COLUMNS)


@dataclass(frozen=True)
class Entry:
    """One image that is not opened yet: its name, its file or bytes, and what is known of its class."""

    name: str
    content: Path | bytes | Image
    label: Label = None

    def open(self) -> Image:
        """The picture in RGB. Raises Broken."""
        return picture(self.content)


@dataclass(frozen=True)
class Found:
    """Entries in the order in which to take them, names of their classes if known, and a clause on those."""

    source: str
    entries: Iterator[Entry]
    classes: tuple[str, ...] = ()
    said: str = ""


def find(spec: str, count: int | None, seed: int, column: str | None) -> Found:
    """The images of `spec`, those of a folder and of a file with rows of every class in turn.

    Raises UsageError for what does not exist, a folder without images, and rows without a column of images.
    """
    table = open_table(spec, seed, column)
    if table is not None:
        return _of_table(table, None if count is None else SPREAD * count, seed)
    path = media.path_of(spec, "folder or file of images", GIVE)
    if not path.is_dir():
        return Found(str(path), iter([Entry(path.name, path)]))
    names, others = folders.in_folder(path, SUFFIXES)
    if not names:
        raise folders.nothing_in(str(path), others, "image", GIVE)
    labels, said = classes.of_folder(names, path)
    entries = [Entry(name, path / name, label) for name, label in zip(names, labels, strict=True)]
    known = tuple(sorted({label for label in labels if isinstance(label, str)}))
    return Found(str(path), in_turn(entries, seed), known, said)


def in_turn(entries: Iterable[Entry], seed: int) -> Iterator[Entry]:
    """One of every class, then a second of every class, …; classes and their images in an order by the seed."""
    groups: dict[Label, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.label, []).append(entry)
    chance = random.Random(seed)
    shuffled = [chance.sample(group, len(group)) for group in groups.values()]
    chance.shuffle(shuffled)
    return (entry for turn in zip_longest(*shuffled) for entry in turn if entry is not None)


def _of_table(table: Table, most: int | None, seed: int) -> Found:
    first, rows = table.sample()
    column = media.column_with(table, "image", IMAGE_COLUMNS, SUFFIXES, first)
    label = next(iter(table.classes), None) or column_named(classes.LABEL_COLUMNS, first)
    entries = _entries(rows, column, label if label != column else None, table.folder)
    said = f"images in {column}, " + (f"classes in {label}" if label else "no labels")
    known = table.classes.get(label or "", ())
    if table.shuffled:
        return Found(table.source, entries, known, said)
    read = list(islice(entries, most))
    if next(entries, None) is not None:
        said += f", of the first {len(read)} rows"
    names = known or tuple(sorted({entry.label for entry in read if isinstance(entry.label, str)}))
    return Found(table.source, in_turn(read, seed), names, said)


def _entries(rows: Iterable[Mapping[str, object]], column: str, label: str | None, folder: Path) -> Iterator[Entry]:
    for number, row in enumerate(rows, start=1):
        cell = row.get(column)
        of_class = classes.as_label(row.get(label)) if label else None
        yield Entry(media.name_of(cell, number), media.content(cell, folder), of_class)
