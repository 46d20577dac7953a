"""Streams that take whatever is printed: consoles that are not UTF-8, closed streams, readers that have gone."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress
from pathlib import Path

from sinkquant.errors import shown

PLAIN = {
    "→": "->", "×": "x", "±": "+-", "…": "...", "–": "-", "—": "-", "−": "-", "‖": "||", "≈": "~", "≤": "<=",
    "≥": ">=", "·": ".", "“": '"', "”": '"', "‘": "'", "’": "'",
}  # fmt: skip
"""What typography becomes where the console has no character for it; everything else becomes its escape."""

_HANDLER = "sinkquant-plain"


def prepare() -> None:
    """Open what the shell closed, let no character fail, and import nothing from the working folder, which may be a
    stranger's checkpoint. For a process that is the command, and nothing else."""
    sys.path[:] = [place for place in sys.path if not _is_working_folder(place)]
    codecs.register_error(_HANDLER, plain_characters)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed by `>&-`: the next file that is opened would take its place and get what is printed
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            setattr(sys, name, open(number, "r+" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)


def say(text: str, *, error: bool = False, end: str = "\n") -> None:
    """Print to stdout, or to stderr, with everything that would steer the terminal escaped; line breaks stay.

    `click.echo` would send UTF-8 to a console that is said to be ASCII.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is not None:  # print would take stdout instead
        print("\n".join(map(shown, text.split("\n"))), file=stream, end=end)


def flush() -> None:
    """Write out what is buffered; a reader that has gone, as `head` does, gets no more and no complaint.

    Raises OSError for what else keeps stdout from being written, a full disk for instance.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard()
    except OSError:
        _discard()
        raise


def plain_characters(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of `codecs`: what cannot be encoded, in characters that can."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(one) or one.encode("ascii", "backslashreplace").decode() for one in text), error.end


def _is_working_folder(place: str) -> bool:
    """Whether `place` is there by an empty entry of PYTHONPATH or such; not where sinkquant itself comes from."""
    try:
        here = os.path.samefile(place or ".", ".")
    except OSError:
        return False
    return here and not os.path.samefile(".", Path(__file__).parents[2])


def _discard() -> None:
    """Send the rest of stdout nowhere, so that the interpreter does not try again when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
