"""Where text comes from: a file, a data set or a named source becomes an iterator of strings.

Joined together, the strings of a source are its text: a text file yields its lines; the rows of a file or of a data set
yield documents, each followed by a blank line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkquant.errors import UsageError, unknown
from sinkquant.inputs import files, folders, hub, paths
from sinkquant.inputs.documents import Documents
from sinkquant.inputs.hub import DATASETS
from sinkquant.inputs.language import checked
from sinkquant.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SELF = "self"  # written by the model, see selfwrite.py: it yields ids, so data.py treats it apart
Source = Callable[[], Iterable[str] | Iterable[Mapping[str, Any]]]
INPUTS: Registry[Source] = Registry(
    "text source",
    {name: f"sinkquant.inputs.python_docs:{entry}" for name, entry in (
        ("python-docs", "python_docs"), ("python-docs:evaluation", "evaluation_docs"),
    )},
)  # fmt: skip
"""Sources by name: each gives pieces of text, or rows in any layout that files may have."""


class Text:
    """An iterator over the pieces of a text. Close it when enough is read."""

    def __init__(self, pieces: Generator[str, None, None], documents: Documents | None = None) -> None:
        self._pieces, self._documents = pieces, documents

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Read no more, and let go of the file."""
        self._pieces.close()
        self._documents = None

    @property
    def said(self) -> str | None:
        """Which columns and how many texts were read until now, as a clause; None where there are no columns."""
        return None if self._documents is None else self._documents.said


def open_text(spec: str, tokenizer: PreTrainedTokenizerBase, seed: int = 0, column: str | None = None) -> Text:
    """The text of `spec`: a name in `INPUTS`, a file with one of `files.SUFFIXES`, or a data set (`hub.DATASET_FORM`).

    A file with rows may be followed by a colon and the name of the column to read, which wins over `column`; a file
    whose name has a colon in it wins over both. The seed shuffles the documents of a data set; files and named sources
    keep their order. The tokenizer gives the chat template for conversations.

    Raises UsageError for an unknown source or unreadable content, SinkquantError for a data set that does not stream.
    """
    if spec in INPUTS:
        return _named(spec, tokenizer, column)
    if spec.startswith(DATASETS):
        named = hub.parse(spec)
        column = next(iter(named.columns), column)
        return _rows(
            Documents(hub.rows(named, seed), spec, tokenizer, column, "datasets:NAME:CONFIG:SPLIT:COLUMN"), spec
        )
    path, own = _file(spec)
    column = own or column
    if files.is_text(path):
        _no_column(str(path), column)
        return Text(checked(files.lines(path), lambda: str(path), "give a file with text"))
    return _rows(Documents(files.rows(path), str(path), tokenizer, column), str(path))


def _named(name: str, tokenizer: PreTrainedTokenizerBase, column: str | None) -> Text:
    """The text of a registered source, whose first item tells whether it gives text or rows."""
    items: Iterator[Any] = iter(INPUTS[name]())
    first: list[Any] = list(islice(items, 1))
    if first and isinstance(first[0], Mapping):
        return _rows(Documents(chain(first, items), name, tokenizer, column), name)
    _no_column(name, column)
    return Text(piece for piece in chain(first, items))


def _rows(documents: Documents, source: str) -> Text:
    remedy = "name the column with the text, as FILE:COLUMN or with calibration.column"
    return Text(checked(documents, lambda: f"{documents.columns} of {source}", remedy), documents)


def _no_column(source: str, column: str | None) -> None:
    if column is not None:
        raise UsageError(f"{source} has no columns, so {column!r} cannot be read: leave the column out.")


def _file(spec: str) -> tuple[Path, str | None]:
    """The file that `spec` means, and the column behind it."""
    path, columns = paths.split(spec)
    if os.path.isfile(path):
        return Path(path), next(iter(columns), None)
    if os.path.isdir(path):
        texts, others = folders.in_folder(Path(path), (*files.TEXT, *files.ROWS, *files.PACKED))
        if not texts:
            raise folders.nothing_in(path, others, "text", f"a text file, a file with rows, or {DATASETS}NAME")
        raise UsageError(f"{spec} is a folder: name a file in it, or read it as a data set with {DATASETS}{spec}.")
    if os.path.exists(path):
        raise UsageError(f"{spec} is no ordinary file: write its content to one.")
    suffix = Path(path).suffix.partition(":")[0].lower()
    if suffix in (*files.SUFFIXES, *files.PACKED) or len(Path(path).parts) > 1:
        raise UsageError(f"there is no text file {paths.short(spec)}, or it may not be read: check the path.")
    options = (*INPUTS, SELF, f"{DATASETS}NAME", f"a file ({', '.join(files.SUFFIXES)})")
    raise unknown("text source", paths.short(spec), options)
