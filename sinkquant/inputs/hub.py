"""Data sets by name: `datasets:NAME[:CONFIG[:SPLIT[:COLUMN …]]]` becomes a stream of rows."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from sinkquant.errors import SinkquantError, UsageError

DATASETS = "datasets:"
DATASET_FORM = "datasets:NAME[:CONFIG[:SPLIT[:COLUMN]]]"


class Named(NamedTuple):
    """A data set as a user names it; '' where a part is left out."""

    spec: str
    name: str
    config: str
    split: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Stream:
    """The rows of a data set, images and audio undecoded: {'bytes': …, 'path': …}.

    `media`: columns that its features declare as 'image' or 'audio'. `classes`: names of the classes by label, of the
    columns that hold labels.
    """

    rows: Generator[Mapping[str, Any], None, None]
    media: Mapping[str, str]
    classes: Mapping[str, tuple[str, ...]]


def parse(spec: str, columns: int = 1) -> Named:
    """The parts of `spec`, with up to `columns` names of columns. Raises UsageError for another form."""
    name, config, split, *named = [*spec.removeprefix(DATASETS).split(":"), "", ""]
    wanted = tuple(column for column in named if column)
    if not name or len(wanted) > columns:
        form = DATASET_FORM.replace(":COLUMN", ":COLUMN" * columns)
        raise UsageError(f"{spec!r} does not name a data set: write {form}.")
    return Named(spec, name, config, split, wanted)


def rows(named: Named, seed: int) -> Generator[Mapping[str, Any], None, None]:
    """The rows of a data set, shuffled by the seed. Nothing is opened before the first is asked for.

    Raises SinkquantError for whatever the data set's builder raises.
    """
    yield from _read(named, seed, {})


def stream(named: Named, seed: int) -> Stream:
    """`rows` with what the data set's features say. Raises SinkquantError for a data set that cannot be opened."""
    from datasets import Audio, ClassLabel, Image

    with _sentences(named):
        features = _opened(named).features or {}
    undecoded = {name: type(kind)(decode=False) for name, kind in features.items() if isinstance(kind, Image | Audio)}
    media = {name: type(kind).__name__.lower() for name, kind in undecoded.items()}
    classes = {name: tuple(kind.names) for name, kind in features.items() if isinstance(kind, ClassLabel)}
    return Stream(_read(named, seed, undecoded), media, classes)


def _opened(named: Named) -> Any:
    from datasets import load_dataset

    return load_dataset(named.name, named.config or None, split=named.split or "train", streaming=True)


def _read(named: Named, seed: int, columns: Mapping[str, Any]) -> Generator[Mapping[str, Any], None, None]:
    """The rows, with some `columns` as other features."""
    try:
        with _sentences(named):
            opened = _opened(named)
            for name, kind in columns.items():
                opened = opened.cast_column(name, kind)
            entries = iter(opened.shuffle(seed=seed))
            yield from entries
    finally:
        # Arrow's reader threads must end before Python does, or they abort it (huggingface/datasets issue 7566).
        opened = entries = None
        gc.collect()


@contextmanager
def _sentences(named: Named) -> Iterator[None]:
    try:
        yield
    except ConnectionError as error:
        raise SinkquantError(
            f"data set {named.name!r} cannot be reached: connect to the network, or name a file or a folder here."
        ) from error
    except Exception as error:  # whatever the builder of that data set raises
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise SinkquantError(
            f"data set {named.spec!r} cannot be read ({reason}): check name, config and split."
        ) from error
