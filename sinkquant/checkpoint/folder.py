"""A folder that is complete or not there: written beside its target, then renamed."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sinkquant.errors import SinkquantError, UsageError


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that exists or whose parent cannot be written, before any work is done."""
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists and is kept: choose another folder or pass --overwrite.")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file: choose a folder.")


def check_space(target: Path, needed: int) -> None:
    """Refuse to start where `needed` bytes (and a tenth more) do not fit on the target's disk."""
    parent = next(p for p in (target, *target.absolute().parents) if p.exists())
    free = shutil.disk_usage(parent).free
    if free < needed * 1.1:
        raise SinkquantError(
            f"{parent} has {free / 1e6:.0f} MB left and the checkpoint needs {needed / 1e6:.0f} MB: free some space."
        )


@contextmanager
def new_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` if the block succeeds and vanishes if it does not."""
    check_target(target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    partial.chmod(0o755)
    try:
        yield partial
        if target.exists():  # the old folder steps aside first, so that a complete one is there at every moment
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            target.rename(old / target.name)
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.rename(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise SinkquantError(
                f"no space is left for {target}: free some space and run the command again."
            ) from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
