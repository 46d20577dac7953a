"""An output folder: claimed when the command starts, written beside its place, there in one step once it is complete.

Beside an output OUT the hidden folder `.OUT.sinkquant` holds what is being written, and a lock that goes with its
process. What a process left there that was killed, the next one to write beside it cleans up.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.formats.durable import sync, sync_tree
from sinkquant.formats.place import absolute, check_output
from sinkquant.formats.rename import exchange, rename_to_free
from sinkquant.formats.replaceable import why_kept
from sinkquant.formats.work import LONG, LONGEST, NEW, OLD, hold, put_back, remove, sweep, try_out, work_folder

FULL = (errno.ENOSPC, errno.EDQUOT)


class Claim:
    """One run's right to write `target`. `new`: where it writes, free until then."""

    def __init__(self, target: Path, work: Path) -> None:
        self.target, self.new = target, work / NEW
        self._old = work / OLD
        self._replaced = target.lstat() if os.path.lexists(target) else None

    def publish(self, folder: Path) -> Path:
        """Let the finished `folder`, somewhere in the work folder, take the output's place; returns the place.

        What is there otherwise by now is kept: then the checkpoint gets a free name beside, which the error states.
        """
        sync_tree(folder)
        if not (self._settle(folder, self.target) or self._swap(folder)):
            names = (self.target.with_name(f"{self.target.name[:LONGEST]}-{i}") for i in count(2))
            place = next(name for name in names if self._settle(folder, name))
            sync(place.parent)
            raise SinkquantError(
                f"{self.target} was made or changed by something else during the run and is kept: "
                f"the finished checkpoint is in {place}."
            )
        sync(self.target.parent)
        return self.target

    def _settle(self, folder: Path, place: Path) -> bool:
        """Take a place that is free; False if it is not."""
        try:
            rename_to_free(folder, place)
        except FileExistsError:
            return False
        return True

    def _swap(self, folder: Path) -> bool:
        """Change places with the folder that was to be replaced; False if it is not the same any more.

        Where the file system cannot exchange folders, the old one steps aside first: a run that is killed between the
        two renames leaves it in the work folder, and the next one puts it back.
        """
        if not self._may_go(self.target):
            return False
        shutil.copymode(self.target, folder)
        if exchange(folder, self.target):
            if self._may_go(folder):
                return True
            exchange(folder, self.target)  # something came into it at the last moment
            return False
        self.target.rename(self._old)
        try:
            return self._settle(folder, self.target)
        finally:
            put_back(self._old, self.target)

    def _may_go(self, folder: Path) -> bool:
        same = self._replaced is not None and os.path.samestat(folder.lstat(), self._replaced)
        return same and why_kept(folder) is None


@contextmanager
def claim(output: str | Path, *, overwrite: bool = False, source: Path | None = None) -> Iterator[Claim]:
    """Claim `output` for the time of the block; what the block wrote and did not publish vanishes with it.

    Raises UsageError for a place that cannot be used, SinkquantError while another run writes it. `source`: the
    model's file or folder on this machine, which is never replaced.
    """
    target = absolute(output)
    made: list[Path] = []
    try:
        with _one_sentence(target):
            check_output(target, overwrite=overwrite, source=source)
            with suppress(FileNotFoundError):
                (target / LONG).lstat()  # a name or path that is too long, a file in place of a folder
            _make_parents(target.parent, made)
            sweep(target.parent)
            work = work_folder(target)
            held = hold(work)
            if held is None:
                raise SinkquantError(
                    f"another run is writing {target}, in {work}: wait until it ends, or choose another folder."
                )
        try:
            with _one_sentence(target):
                try_out(held, work, target)
                check_output(target, overwrite=overwrite, source=source)  # the run before may just have ended
                claimed = Claim(target, work)
            with _explained(target, work):
                yield claimed
        finally:
            remove(work)
            held.close()
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()  # stays where the checkpoint is in it


def check_space(folder: Path, needed: int) -> None:
    """Refuse to start where `needed` bytes (and a tenth more) do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed * 1.1:
        raise SinkquantError(
            f"{folder} has {free / 1e6:.0f} MB left and the checkpoint needs {needed / 1e6:.0f} MB: free some space."
        )


@contextmanager
def _one_sentence(target: Path) -> Iterator[None]:
    """What the system says against a place, before any work."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        remedy = "free some space" if error.errno in FULL else "choose another folder"
        kind = SinkquantError if error.errno in FULL else UsageError
        raise kind(f"{target} cannot be written ({reason}): {remedy}.") from error


@contextmanager
def _explained(target: Path, work: Path) -> Iterator[None]:
    """What can happen to a place during the work. Native code wraps the system's error and leaves only its text."""
    try:
        yield
    except SinkquantError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in FULL or "No space left on device" in str(error):
            raise SinkquantError(
                f"no space is left for {target}: free some space and run the command again."
            ) from error
        if not work.exists():
            raise SinkquantError(
                f"{target.parent}, in which {target.name} was being written, was removed or renamed during the run: "
                "run the command again."
            ) from error
        raise


def _make_parents(folder: Path, made: list[Path]) -> None:
    if not folder.exists():
        _make_parents(folder.parent, made)
        folder.mkdir(exist_ok=True)
        made.append(folder)
