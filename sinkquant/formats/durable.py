"""Bytes that are on the disk, not only in the system's memory, before anything else relies on them."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file, or the list of names of a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Wait until everything in `folder` is on the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync(Path(root, name))
        sync(Path(root))


def replace_file(path: Path, data: bytes) -> None:
    """Write `path` in one step: an interruption or a full disk leaves the old file, and nothing beside it.

    A link keeps pointing where it points; what is no regular file (a pipe, a terminal) is written to.
    """
    path = Path(os.path.realpath(path))
    old = path.stat() if path.exists() else None
    if old is not None and not stat.S_ISREG(old.st_mode):
        path.write_bytes(data)
        return
    handle, name = tempfile.mkstemp(prefix=".sinkquant.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, stat.S_IMODE(old.st_mode) if old is not None else 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync(path.parent)


def _umask() -> int:
    """The permissions that new files of this process do not get."""
    mask = os.umask(0o077)  # it can only be read by setting it
    os.umask(mask)
    return mask
