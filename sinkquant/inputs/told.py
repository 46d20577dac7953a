"""Images with what is said of them, in captions, answers and conversations, from a folder, rows or a data set."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkquant.errors import UsageError
from sinkquant.inputs import folders, layouts, media, transcripts
from sinkquant.inputs.broken import Broken
from sinkquant.inputs.chat import Turns, turns
from sinkquant.inputs.files import ROWS
from sinkquant.inputs.image_files import IMAGE_COLUMNS
from sinkquant.inputs.layouts import Row, joined
from sinkquant.inputs.pictures import SUFFIXES, picture
from sinkquant.inputs.said import Left, number
from sinkquant.inputs.tables import Table, column_named, existing, open_table

if TYPE_CHECKING:
    from PIL.Image import Image

GIVE = "a folder of images with metadata.jsonl or a text beside each, a file with rows, or datasets:NAME"
ASKS = "Describe the image."
"""What captions without a question answer."""
CAPTION_COLUMNS = ("caption", "captions", "text", "description", "sentence", "sentences", "alt_text", "title")
LISTS = tuple(f"{name}{kind}" for name in ("metadata", "captions", "conversations", "annotations") for kind in ROWS)


@dataclass(frozen=True)
class Told:
    """One sample: `images`, unopened, the `turns` of a conversation about them, and the `answer` that comes next."""

    name: str
    images: tuple[object, ...]
    turns: Turns
    answer: str

    def open(self) -> list[Image]:
        """The images in RGB. Raises Broken."""
        return [picture(image) for image in self.images]


@dataclass(frozen=True)
class Tales(Sequence[Told]):
    """Samples in an order that the seed chose; `said`: a clause on what was read and what was left out."""

    samples: tuple[Told, ...]
    source: str
    said: str
    left: Left = field(default_factory=Left)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Told:  # type: ignore[override]
        return self.samples[index]


def read_told(spec: str | None, *, count: int, seed: int = 0, column: str | None = None) -> Tales:
    """Up to `count` samples of `spec`, in an order by the seed.

    `spec`: a folder (rows of `LISTS` in it name its images, or a text of the same name lies beside each), rows with
    images of a file (FILE or FILE:IMAGE:TEXT) or of a data set. A row has a conversation, a question and its answer in
    columns of usual names, or a caption. The last turn of the assistant is the answer. What cannot be read is left out.

    Raises UsageError where nothing can be read or nothing is named, SinkquantError for a data set that does not stream.
    """
    if not spec:
        raise UsageError(f"the model sees images and writes of them, and none are named: give {GIVE}.")
    if count < 1:
        raise UsageError(f"{count} samples are too few: ask for at least 1.")
    source, found, said = _find(spec, seed, column)
    left, chosen = Left(), list[Told]()
    for name, images, told in found:
        try:
            sample = _sample(name, images, told)
            sample.open()
        except Broken as reason:
            left.add(name, str(reason))
            continue
        chosen.append(sample)
        if len(chosen) == count:
            break
    if not chosen:
        raise UsageError(f"nothing of {source} can be read, {left.said or 'it holds no rows'}: give {GIVE}.")
    read = f"{source}: {number(len(chosen), 'image')} with text"
    if len(chosen) < count:
        read += f", not the {count} asked for"
    return Tales(tuple(chosen), source, "; ".join(filter(None, (read, said, left.said))), left)


Found = tuple[str, tuple[object, ...], Turns | str | None]


def _find(spec: str, seed: int, column: str | None) -> tuple[str, Iterator[Found], str]:
    """Where samples are, those in the order in which to take them, and a clause on them."""
    table = open_table(spec, seed, column, columns=2)
    if table is None:
        path = media.path_of(spec, "folder of images with text", GIVE)
        listed = next((path / name for name in LISTS if (path / name).is_file()), None) if path.is_dir() else None
        if listed is None:
            return str(path), _shuffled(_beside(path), seed), "texts beside the images"
        table = open_table(str(listed), seed, column)
        assert table is not None
    return _of_table(table, seed)


def _beside(path: Path) -> list[Found]:
    """Images and the texts of the same name."""
    if not path.is_dir():
        return [(path.name, (path,), transcripts.beside(path))]
    names, others = folders.in_folder(path, SUFFIXES)
    if not names:
        raise folders.nothing_in(str(path), others, "image", GIVE)
    return [(name, (path / name,), transcripts.beside(path / name)) for name in names]


def _of_table(table: Table, seed: int) -> tuple[str, Iterator[Found], str]:
    first, rows = table.sample()
    flat = [{key: _first(cell) for key, cell in row.items()} for row in first]
    image = media.column_with(table, "image", ("images", *IMAGE_COLUMNS), SUFFIXES, flat)
    text = existing(table.columns[1], first, table.source) if len(table.columns) > 1 else None
    caption = text or column_named(CAPTION_COLUMNS, first)
    found = (
        (media.name_of(_first(row.get(image)), line), _images(row.get(image), table.folder), _said(row, text, caption))
        for line, row in enumerate(rows, start=1)
    )
    return table.source, found if table.shuffled else _shuffled(list(found), seed), f"images in {image}"


def _first(cell: Any) -> Any:
    """Of several images the first."""
    return cell[0] if isinstance(cell, list) and cell and media.is_media(cell[0], SUFFIXES) else cell


def _images(cell: Any, folder: Path) -> tuple[object, ...]:
    cells = cell if isinstance(cell, list) else [cell]
    return tuple(content for one in cells if (content := media.content(one, folder)) is not None)


def _said(row: Row, text: str | None, caption: str | None) -> Turns | str | None:
    """A conversation, or a caption."""
    if text is not None:
        cell = row.get(text)
        return turns(cell) or joined(cell)
    found = layouts.talk(row)
    if found:
        return found
    cell = row.get(caption) if caption is not None else None
    return joined(cell[0] if isinstance(cell, list) and cell else cell) or None  # of several captions the first


def _sample(name: str, images: tuple[object, ...], told: Turns | str | None) -> Told:
    """Raises Broken where a part is missing."""
    if not images:
        raise Broken("has no image")
    if not told:
        raise Broken("has no text")
    talk = (
        [{"role": "user", "content": ASKS}, {"role": "assistant", "content": told}] if isinstance(told, str) else told
    )
    answers = [place for place, turn in enumerate(talk) if turn["role"] == "assistant"]
    if not answers or answers[-1] == 0:
        raise Broken("has no answer of an assistant")
    return Told(name, images, list(talk[: answers[-1]]), talk[answers[-1]]["content"])


def _shuffled(entries: Iterable[Found], seed: int) -> Iterator[Found]:
    listed = list(entries)
    return iter(random.Random(seed).sample(listed, len(listed)))
