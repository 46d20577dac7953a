"""Where text comes from: a file, a data set or a named source becomes an iterator of strings.

Joined together, the strings of a source are its text: a text file yields its lines; the rows of a file or of a data set
yield documents, each followed by a blank line.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkquant.errors import SinkquantError, UsageError, unknown
from sinkquant.inputs import files
from sinkquant.inputs.documents import Documents
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
DATASETS = "datasets:"
DATASET_FORM = "datasets:NAME[:CONFIG[:SPLIT[:COLUMN]]]"


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
    """The text of `spec`: a name in `INPUTS`, a file with one of `files.SUFFIXES`, or a data set, see `DATASET_FORM`.

    A file with rows may be followed by a colon and the name of the column to read, which wins over `column`; a file
    whose name has a colon in it wins over both. The seed shuffles the documents of a data set; files and named sources
    keep their order. The tokenizer gives the chat template for conversations.

    Raises UsageError for an unknown source or unreadable content, SinkquantError for a data set that does not stream.
    """
    if spec in INPUTS:
        return _named(spec, tokenizer, column)
    if spec.startswith(DATASETS):
        rows, own = _dataset(spec, seed)
        return _rows(Documents(rows, spec, tokenizer, own or column, "datasets:NAME:CONFIG:SPLIT:COLUMN"), spec)
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
    # os.path and not Path, whose tests raise for names that are too long and for home folders of nobody.
    path = os.path.expanduser(spec)
    if os.path.isfile(path):
        return Path(path), None
    for place in reversed([place for place, letter in enumerate(path) if letter == ":"]):
        if os.path.isfile(path[:place]):
            if not path[place + 1 :]:
                raise UsageError(f"no column is named behind the colon of {spec}: write FILE:COLUMN, or FILE alone.")
            return Path(path[:place]), path[place + 1 :]
    if os.path.isdir(path):
        raise UsageError(f"{spec} is a folder: name a file in it, or read it as a data set with {DATASETS}{spec}.")
    if os.path.exists(path):
        raise UsageError(f"{spec} is no ordinary file: write its content to one.")
    suffix = Path(path).suffix.partition(":")[0].lower()
    if suffix in (*files.SUFFIXES, *files.PACKED) or len(Path(path).parts) > 1:
        raise UsageError(f"there is no text file {_short(spec)}, or it may not be read: check the path.")
    options = (*INPUTS, SELF, f"{DATASETS}NAME", f"a file ({', '.join(files.SUFFIXES)})")
    raise unknown("text source", _short(spec), options)


def _short(spec: str) -> str:
    return spec if len(spec) <= 200 else f"{spec[:200]} …"


def _dataset(spec: str, seed: int) -> tuple[Iterator[Mapping[str, Any]], str | None]:
    """The rows of a data set, and the column that is named."""
    name, config, split, column, *rest = [*spec.removeprefix(DATASETS).split(":"), "", "", ""]
    if not name or any(rest):
        raise UsageError(f"{spec!r} does not name a data set: write {DATASET_FORM}.")
    return _dataset_rows(spec, name, config, split, seed), column or None


def _dataset_rows(spec: str, name: str, config: str, split: str, seed: int) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        stream = load_dataset(name, config or None, split=split or "train", streaming=True)
        rows = iter(stream.shuffle(seed=seed))
        yield from rows
    except ConnectionError as error:
        raise SinkquantError(
            f"data set {name!r} cannot be reached: connect to the network, or use a text file, python-docs or self."
        ) from error
    except Exception as error:  # whatever the builder of that data set raises
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise SinkquantError(f"data set {spec!r} cannot be read ({reason}): check name, config and split.") from error
    finally:
        # Arrow's reader threads must end before Python does, or they abort it (huggingface/datasets issue 7566).
        stream = rows = None
        gc.collect()
