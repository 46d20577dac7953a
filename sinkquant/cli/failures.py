"""The one place where an error becomes a sentence on stderr and an exit code."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from sinkquant.errors import SinkquantError

INTERRUPTED = 130  # what a shell reports for a command that SIGINT ended
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn expected errors into one sentence on stderr; whatever else happens is a bug and keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted: run the same command again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except SinkquantError as error:
        raise _exit(str(error), error.exit_code) from None
    except Exception as error:
        if _disk_is_full(error):
            raise _exit("no space is left on the disk: free some and run the command again.", 1) from None
        if isinstance(error, OSError) and error.errno in _REFUSED:
            reason = (error.strerror or "refused").lower()
            raise _exit(f"{error.filename} cannot be used ({reason}): choose another path.", 1) from None
        raise


def _exit(sentence: str, code: int) -> typer.Exit:
    typer.echo(f"error: {sentence}", err=True)
    return typer.Exit(code)


def _disk_is_full(error: Exception) -> bool:
    """Libraries that write through native code wrap the OSError and leave only its text."""
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error)
