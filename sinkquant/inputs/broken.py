"""Files that are not taken, and why."""

from __future__ import annotations

from pathlib import Path


class Broken(Exception):
    """A file that is not taken; the message says why, as the end of a sentence: 'is empty'."""


def contents(content: object) -> bytes:
    """The bytes of a file, or bytes as they are. Raises Broken for other things, and where there are none."""
    data = _bytes(content) if isinstance(content, Path) else content
    if data is None or data == b"":
        raise Broken("is empty")
    if not isinstance(data, bytes):
        raise Broken("is no file")
    return data


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Broken("does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise Broken(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
