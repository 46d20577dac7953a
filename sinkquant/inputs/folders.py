"""What a folder holds, and what is said where it is not what is looked for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sinkquant.errors import UsageError
from sinkquant.inputs import files
from sinkquant.inputs.hub import DATASETS


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
