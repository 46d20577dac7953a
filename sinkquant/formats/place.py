"""Where an output may be: its absolute place, and the folders that are never replaced."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from pathlib import Path

from sinkquant.errors import UsageError
from sinkquant.formats.replaceable import why_kept

MOUNTS = Path("/proc/self/mountinfo")


def absolute(output: str | Path) -> Path:
    """The place that `output` means now, without links and `..`; UsageError for one that no folder can have."""
    name = os.fspath(output)
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise UsageError(f"the output {name!r} has characters that names of files should not have: choose another.")
    path = os.path.expanduser(name)
    try:
        here = path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    except FileNotFoundError:
        raise UsageError(f"{name!r} is relative to a working folder that is gone: name it in full.") from None
    link = here.rstrip(os.sep)
    if os.path.islink(link) and not os.path.exists(link):
        raise UsageError(f"{name} is a link to {os.readlink(link)}, which is not there: choose another folder.")
    return Path(os.path.realpath(here))


def check_output(output: Path, *, overwrite: bool, source: Path | None) -> None:
    """Refuse a place with something that is not to be replaced. `source`: the model's file or folder, if it is here."""
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise UsageError(f"{output} exists and is kept: choose another folder or pass --overwrite.")
    if not output.is_dir():
        raise UsageError(f"{output} is a file: choose a folder.")
    reason = _protection(output, source) or why_kept(output)
    if reason is not None:
        raise UsageError(f"{output} is kept, {reason}: choose another folder.")


def _protection(output: Path, source: Path | None) -> str | None:
    """Why a folder is never replaced, whatever it holds. Compared as files, so that no spelling hides it."""
    held = [(Path(os.path.expanduser("~")), "your home folder")]
    with contextlib.suppress(FileNotFoundError):
        held.append((Path.cwd(), "the working folder"))
    if source is not None:
        held.append((source, "the model"))
        if source.is_dir() and _within(output, source) and not _same(output, source):
            return "it lies in the model's folder"
    for place, name in held:
        if _within(place, output):
            return f"it {'is' if _same(place, output) else 'holds'} {name}"
    return "it is a mount point" if os.path.ismount(output) or output in _mounts() else None


def _within(place: Path, folder: Path) -> bool:
    real = Path(os.path.realpath(place))
    return any(_same(part, folder) for part in (real, *real.parents))


def _same(first: Path, second: Path) -> bool:
    return first.exists() and second.exists() and os.path.samefile(first, second)


def _mounts() -> set[Path]:
    """Mount points, binds among them, which `ismount` does not see; \\040 is a blank (man 5 proc)."""
    if not MOUNTS.is_file():
        return set()
    points = [line.split()[4] for line in MOUNTS.read_bytes().splitlines()]
    return {Path(os.fsdecode(re.sub(rb"\\(\d{3})", lambda code: bytes([int(code[1], 8)]), name))) for name in points}
