"""Files of a folder, or cells of a table, that hold images or audio."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sinkquant.errors import UsageError
from sinkquant.inputs import paths
from sinkquant.inputs.layouts import Row
from sinkquant.inputs.tables import Table, column_named, columns_of, existing


def path_of(spec: str, what: str, give: str) -> Path:
    """The file or folder that `spec` is. Raises UsageError where there is none."""
    path = Path(paths.split(spec)[0])
    if not os.path.exists(path):
        raise UsageError(f"there is no {what} {paths.short(spec)}, or it may not be read: give {give}.")
    return path


def column_with(table: Table, kind: str, names: Sequence[str], suffixes: Sequence[str], rows: Sequence[Row]) -> str:
    """The column of `rows` that holds media of a `kind`: the named one, else by features, by name, by what is in it.

    Raises UsageError where there is none.
    """
    if table.columns:
        return existing(table.columns[0], rows, table.source)
    declared = next((name for name, its in table.media.items() if its == kind), None)
    named = column_named(names, [{key: cell for key, cell in row.items() if is_media(cell, suffixes)} for row in rows])
    likely = next((key for row in rows for key, cell in row.items() if is_media(cell, suffixes)), None)
    column = declared or named or likely
    if column is None:
        there = ", ".join(columns_of(rows)) or "none"
        raise UsageError(f"{table.source} has no column with {kind} (columns: {there}): name it, as FILE:COLUMN.")
    return column


def is_media(cell: object, suffixes: Sequence[str]) -> bool:
    """Whether a cell may hold media: bytes, a mapping with them or with samples, a decoded image, or a file's name."""
    if isinstance(cell, Mapping):
        return bool({"bytes", "path", "array"} & set(cell))
    if isinstance(cell, str):
        return cell.lower().endswith(tuple(suffixes))
    return isinstance(cell, bytes) or hasattr(cell, "convert")


def content(cell: Any, folder: Path) -> Any:
    """What a cell holds: bytes, the path of a file below `folder`, or the cell itself; None where it is empty."""
    if isinstance(cell, Mapping) and ("bytes" in cell or "path" in cell):
        return cell["bytes"] if cell.get("bytes") else content(cell.get("path"), folder)
    if isinstance(cell, str):
        return folder / os.path.expanduser(cell) if cell.strip() else None
    return cell


def name_of(cell: Any, row: int) -> str:
    """The file that a cell names, or 'row N'."""
    named = cell.get("path") if isinstance(cell, Mapping) else cell
    return os.path.basename(named) if isinstance(named, str) and named.strip() else f"row {row}"
