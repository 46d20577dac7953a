"""The one exception family: every message is one sentence that ends with the remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import get_close_matches


class SinkquantError(Exception):
    """Something outside the user's command went wrong: a file, a model, the disk (exit code 1)."""

    exit_code = 1


class UsageError(SinkquantError):
    """The command, recipe or argument cannot be used as given (exit code 2)."""

    exit_code = 2


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. torch says so by a MemoryError, a class of its own (GPU) or a RuntimeError (CPU)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return getattr(error, "errno", None) == errno.ENOMEM or "can't allocate memory" in str(error)


def unknown(kind: str, name: str, options: Iterable[str]) -> UsageError:
    """The error for a name that is not among `options`; offers the nearest one and lists all."""
    listed = sorted(options)
    near = get_close_matches(name, listed, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}choose one of {', '.join(listed)}.")
