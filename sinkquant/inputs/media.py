"""Files of a folder, or cells of a table, that hold images or audio."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sinkquant.errors import UsageError
from sinkquant.inputs import files, paths
from sinkquant.inputs.hub import DATASETS
from sinkquant.inputs.layouts import Row
from sinkquant.inputs.tables import Table, column_named, columns_of, existing


def in_folder(folder: Path, suffixes: Sequence[str]) -> tuple[list[str], Counter[str]]:
    """Paths below `folder` of the files with one of `suffixes`, sorted, with '/', and how many others have which.

    Links are followed, each folder once; hidden files and folders are passed over.
    """
    found, others, seen = [], Counter[str](), set()
    for where, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        real = os.path.realpath(where)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in suffixes:
                found.append(Path(where, name).relative_to(folder).as_posix())
            else:
                others[suffix or "file without suffix"] += 1
    return sorted(found), others


def nothing_in(spec: str, others: Counter[str], what: str, give: str) -> UsageError:
    """The error for a folder without what is looked for: what it holds, and what to give."""
    if not others:
        return UsageError(f"the folder {spec} is empty: give {give}.")
    holds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(4))
    rows = any(suffix in (*files.ROWS, ".arrow") for suffix in others)
    remedy = f"read it as a data set with {DATASETS}{spec}, or give {give}" if rows else f"give {give}"
    return UsageError(f"the folder {spec} holds no {what} but {holds}: {remedy}.")


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
