"""The one place where an error becomes a sentence on stderr and an exit code."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten

import typer

from sinkquant.cli.console import say
from sinkquant.errors import SinkquantError, out_of_memory

INTERRUPTED = 130  # what a shell reports for a command that SIGINT ended
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PARSING: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, which typer brings along or imports


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn every error into one sentence on stderr; the traceback of an unexpected one goes to a file."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        say("interrupted: run the same command again to go on", error=True)
        raise typer.Exit(getattr(interrupt, "exit_code", INTERRUPTED)) from None
    except SinkquantError as error:
        raise _exit(str(error), error.exit_code) from None
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise  # the last: whoever read the output has seen enough
    except _PARSING as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help itself
            raise
        raise _exit(_parsing(error), 2) from None
    except Exception as error:
        raise _exit(_expected(error) or _unexpected(error), 1) from None


def _exit(sentence: str, code: int) -> typer.Exit:
    say(f"error: {sentence}", error=True)
    return typer.Exit(code)


def _parsing(error: Exception) -> str:
    """A command line that cannot be read, as click words it."""
    message = " ".join(error.format_message().split()).rstrip(".").replace(". Did", ": did")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "sinkquant"
    return f"{message[:1].lower()}{message[1:]} (see {command} --help)."


def _expected(error: Exception) -> str | None:
    """What the machine has too little of, or does not allow."""
    if out_of_memory(error):
        return (
            "memory ran out: close other programs, take less text (--set calibration.sequences=4 "
            "--set calibration.length=256), or use a machine with more memory."
        )
    if _disk_is_full(error):
        return "no space is left on the disk: free some and run the command again."
    if isinstance(error, OSError) and error.errno in _REFUSED:
        reason = (error.strerror or "refused").lower()
        return f"{error.filename} cannot be used ({reason}): choose another path."
    return None


def _unexpected(error: Exception) -> str:
    """A fault of the program: what happened, and what a report of it needs."""
    from sinkquant.cli.crash_log import write_log

    said = shorten(" ".join(str(error).split()), 160, placeholder=" …").rstrip(".")
    what = type(error).__name__ + (f" ({said})" if said else "")
    log = write_log(error)
    if log is None:
        return f"an unexpected {what} ended the command: report it with the command and its versions."
    return (
        f"an unexpected {what} ended the command: report it with {log}, "
        "which holds the command, the versions and the traceback."
    )


def _disk_is_full(error: Exception) -> bool:
    """Libraries that write through native code wrap the OSError and leave only its text."""
    return getattr(error, "errno", None) in _FULL or "No space left on device" in str(error)
