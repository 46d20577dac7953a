"""What a user writes to name a file and columns of it: FILE, FILE:COLUMN, FILE:COLUMN:COLUMN."""

from __future__ import annotations

import os

from sinkquant.errors import UsageError


def split(spec: str, columns: int = 1) -> tuple[str, tuple[str, ...]]:
    """The path that `spec` names, with ~ as the home folder, and up to `columns` columns behind it.

    A file whose name has colons in it wins over columns. Where nothing exists, all of it is the path. Raises UsageError
    where a colon has nothing behind it.
    """
    # os.path and not Path, whose tests raise for names that are too long and for home folders of nobody.
    path = os.path.expanduser(spec)
    if os.path.exists(path):
        return path, ()
    for place in reversed([place for place, letter in enumerate(path) if letter == ":"]):
        if os.path.isfile(path[:place]):
            names = tuple(path[place + 1 :].split(":", columns - 1))
            if not all(names):
                raise UsageError(f"no column is named behind the colon of {spec}: write FILE:COLUMN, or FILE alone.")
            return path[:place], names
    return path, ()


def short(spec: str) -> str:
    """`spec` for a message."""
    return spec if len(spec) <= 200 else f"{spec[:200]} …"
