"""The hidden folder beside an output: what is being written, and a lock that goes with the process that writes.

What a killed process left is recognised by its lock file, which no process holds any more.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from io import FileIO
from pathlib import Path

from sinkquant.formats.lock import lock

LOCK, NEW, OLD = "lock", "new", "old"
MARK = b"sinkquant\n"  # a lock file begins with it, so that no other folder is cleaned up; the output's name follows
LONGEST = 200  # bytes of a name that leave room for what is added to it
LONG = "x" * 100  # longer than the name of any file of a checkpoint


def work_folder(target: Path) -> Path:
    """Where what becomes `target` is written."""
    name = target.name
    if len(os.fsencode(name)) > LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return target.with_name(f".{name}.sinkquant")


def hold(work: Path) -> FileIO | None:
    """The work folder's lock, None while another run holds it."""
    while True:
        work.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # the run before removed the folder in between
            return lock(work / LOCK)


def try_out(held: FileIO, work: Path, target: Path) -> None:
    """Write what later runs recognise the folder by, and see that bytes and long names have room here."""
    put_back(work / OLD, target)
    _empty(work)
    held.truncate(0)
    held.write(MARK + os.fsencode(target.name))
    os.fsync(held.fileno())
    (work / LONG).touch()
    (work / LONG).unlink()


def sweep(parent: Path) -> None:
    """Clean up what killed runs left in `parent`, and put back the checkpoint that one had moved aside."""
    for file in parent.glob(f".*.sinkquant/{LOCK}"):
        with suppress(OSError):
            held = lock(file) if file.read_bytes().startswith(MARK) else None
            if held is not None:
                with held:
                    name = os.fsdecode(held.read().removeprefix(MARK))
                    put_back(file.with_name(OLD), parent / name)
                    remove(file.parent)


def put_back(old: Path, target: Path) -> None:
    """Return what was moved aside for `target`, if nothing took its place."""
    if old.exists() and not os.path.lexists(target):
        old.rename(target)


def remove(work: Path) -> None:
    """Remove a work folder whose lock is held; the lock goes last."""
    _empty(work)
    (work / LOCK).unlink(missing_ok=True)
    with suppress(OSError):
        work.rmdir()


def _empty(work: Path) -> None:
    with suppress(FileNotFoundError):
        for path in work.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink()
