"""Rows with more than text in them, of a data set, a file or a registered source: images, audio, pairs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sinkquant.errors import UsageError, unknown
from sinkquant.inputs import files, hub, paths
from sinkquant.inputs.layouts import Row
from sinkquant.inputs.sources import INPUTS

LOOKED_AT = 20  # rows that tell what the columns hold


@dataclass(frozen=True)
class Table:
    """Rows and what is known of their columns.

    `columns`: those that the user named. `media` and `classes`: see `hub.Stream`. `folder`: where file names in the
    rows begin. `shuffled`: whether neighbours have nothing to do with each other.
    """

    source: str
    rows: Iterator[Row]
    columns: tuple[str, ...] = ()
    media: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folder: Path = Path()
    shuffled: bool = False

    def sample(self) -> tuple[list[Row], Iterator[Row]]:
        """The first rows, and all of them."""
        first = list(islice(self.rows, LOOKED_AT))
        return first, chain(first, self.rows)


def open_table(spec: str, seed: int, column: str | None = None, columns: int = 1) -> Table | None:
    """The table that `spec` names; None where it names a folder, another kind of file, or nothing that exists.

    Columns behind `spec` win over `column`. Raises UsageError and SinkquantError as files and data sets do.
    """
    given = () if column is None else (column,)
    if spec.startswith(hub.DATASETS):
        named = hub.parse(spec, columns)
        stream = hub.stream(named, seed)
        return Table(spec, stream.rows, named.columns or given, stream.media, stream.classes, shuffled=True)
    if spec in INPUTS:
        items: Iterator[Any] = iter(INPUTS[spec]())
        first = list(islice(items, 1))
        if not first or not isinstance(first[0], Mapping):
            return None
        return Table(spec, chain(first, items), given)
    path, own = paths.split(spec, columns)
    where = Path(path)
    if not where.is_file() or not files.has_rows(where):
        return None
    return Table(str(where), files.rows(where), own or given, classes=_classes(where), folder=where.parent)


def column_named(names: Iterable[str], rows: Sequence[Row]) -> str | None:
    """The first of `names`, in lower case, that a row has as a column."""
    there = {str(key).lower(): str(key) for row in rows for key in row}
    return next((there[name] for name in names if name in there), None)


def existing(column: str, rows: Sequence[Row], source: str) -> str:
    """`column`, or the UsageError that offers those that there are."""
    if rows and not any(column in row for row in rows):
        raise unknown(f"column of {source}", column, columns_of(rows))
    return column


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The names of all columns."""
    return list(dict.fromkeys(str(key) for row in rows for key in row))


def _classes(path: Path) -> dict[str, tuple[str, ...]]:
    """Names of classes as `datasets` writes them into its parquet files."""
    if path.suffix.lower() != ".parquet":
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        written = (pq.read_schema(path).metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(written)["info"]["features"]
        return {name: tuple(kind["names"]) for name, kind in features.items() if "names" in kind}
    except (pa.ArrowException, OSError):
        raise UsageError(f"{path} is not a readable parquet file: write or copy it again.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # another writer's
