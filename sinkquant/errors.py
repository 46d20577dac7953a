"""The one exception family: every message is one sentence that ends with the remedy."""

from __future__ import annotations

import errno
import json
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

STEERING = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode categories of controls, invisible format characters (those that turn the direction of text among them), lone
surrogates and line separators."""


class SinkquantError(Exception):
    """Something outside the user's command went wrong: a file, a model, the disk (exit code 1).

    Names and texts of files in the message are shown, whatever characters they are made of.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


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
    near = get_close_matches(str(name), listed, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}choose one of {', '.join(listed)}.")


def shown(text: str) -> str:
    """`text` in one line, in which every character that steers is written as Python escapes it."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def shown_json(text: str) -> str:
    """JSON `text`, its own line breaks kept, in which every character that steers is escaped as JSON has it."""
    return "".join(json.dumps(one)[1:-1] if one != "\n" and _steers(one) else one for one in text)


def _steers(character: str) -> bool:
    return unicodedata.category(character) in STEERING


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii") if _steers(character) else character
