"""Which class a picture shows: what folders, file names and label files say, and the same in the numbers of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from sinkquant.errors import UsageError
from sinkquant.inputs import files
from sinkquant.inputs.layouts import Row
from sinkquant.inputs.tables import column_named, columns_of

Label = int | str | None  # a number, a name, or unknown

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "class_name", "category", "target", "class_id", "cls", "y")
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "image_path", "name", "image_id", "id")
LABEL_FILES = tuple(f"{name}{kind}" for name in ("labels", "metadata") for kind in (".csv", ".tsv", ".jsonl", ".json"))
_NUMBERED = re.compile(r"(\d{1,6})_+([^\W\d].*?)(?:_\d+)?$")  # 0017_jay, 17_jay_0003


def as_label(value: object) -> Label:
    """The label in a cell: a whole number, also as a float or in digits, or a name."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return int(value) if value == int(value) and value >= 0 else None
    text = str(value).strip()
    return int(text) if text.isdecimal() else text or None


def of_folder(names: Sequence[str], folder: Path) -> tuple[list[Label], str]:
    """A label for each of `names` (paths below `folder`), and a clause on where they are from.

    A label file wins over sub-folders, and those over numbers in front of the files' names.

    Raises UsageError for a label file without the columns, or one that cannot be read.
    """
    for written in LABEL_FILES:
        if (folder / written).is_file():
            return _listed(names, folder / written), f"labels of {written}"
    parts = [PurePosixPath(name).parts for name in names]
    while len({part[0] for part in parts}) == 1 and all(len(part) > 1 for part in parts):
        parts = [part[1:] for part in parts]  # a folder around all of them is no class
    if all(len(part) > 1 for part in parts):
        return [part[0] for part in parts], "classes of sub-folders"
    numbered = [_NUMBERED.match(Path(part[-1]).stem) for part in parts]
    if len(parts) > 1 and all(numbered):
        pairs = {(int(found[1]), found[2]) for found in numbered if found}
        numbers, things = ({pair[side] for pair in pairs} for side in (0, 1))
        if len(numbers) == len(pairs) and 2 * len(things) > len(numbers):  # not one name that is counted through
            return [int(found[1]) if found else None for found in numbered], "classes of the numbers before names"
    return [None] * len(names), "no labels"


def _listed(names: Sequence[str], path: Path) -> list[Label]:
    rows = list(files.rows(path))
    file, label = (column_named(columns, rows) for columns in (FILE_COLUMNS, LABEL_COLUMNS))
    if file is None or label is None:
        there = ", ".join(columns_of(rows)) or "none"
        raise UsageError(f"{path} names no file and label (columns: {there}): call the columns file_name and label.")
    known = _by_name(rows, file, label)
    return [_of_name(known, name) for name in names]


def _by_name(rows: Sequence[Row], file: str, label: str) -> dict[str, Label]:
    return {PurePosixPath(str(row[file]).strip()).as_posix(): as_label(row.get(label)) for row in rows if row.get(file)}


def _of_name(known: Mapping[str, Label], name: str) -> Label:
    """By the path below the folder, else by the file's name, else by that without its suffix."""
    path = PurePosixPath(name)
    return next((known[key] for key in (name, path.name, path.stem) if key in known), None)


def numbered(labels: Sequence[Label], known: Sequence[str]) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """Every label as a number, and the names by that number: `known`, or in sorted order those that occur."""
    names = tuple(known) or tuple(sorted({label for label in labels if isinstance(label, str)}))
    numbers = {name: number for number, name in enumerate(names)}
    return tuple(numbers.get(label) if isinstance(label, str) else label for label in labels), names


def in_model(classes: Sequence[str], config: Any) -> list[int | None]:
    """The model's number for each of `classes`, by its `id2label`; None where none has the name.

    Compared are whole names and those between commas ('tench, Tinca tinca'), without case, blanks and signs. Numbers
    are taken as they are. Where no name is known but there are as many classes as the model has, so is their order.
    """
    labels: Mapping[int, str] = config.id2label
    if all(name.isdecimal() for name in classes):
        return [int(name) if int(name) < len(labels) else None for name in classes]
    known: dict[str, set[int]] = {}
    for number, text in labels.items():
        for name in {str(text), *str(text).split(",")}:
            known.setdefault(_plain(name), set()).add(int(number))
    found = [known.get(_plain(name), set()) for name in classes]
    if not any(found) and len(classes) == len(labels):
        return list(range(len(classes)))
    return [next(iter(numbers)) if len(numbers) == 1 else None for numbers in found]


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))
