"""Whether strings are language or only name things: identifiers, hashes, addresses, numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator

from sinkquant.errors import UsageError

LIMIT = 0.8  # share of names among the words; prose has few, and code stays below a half
SAMPLE = 20_000  # characters that are looked at
_WORD = re.compile(r"\S+")
_NAME = re.compile(r"\w[./:@=+&?_\-]*[./:@=+_]\w")  # a.b, a/b, a_b, a@b, a=b: inside a word, not around it


def is_language(texts: Iterable[str]) -> bool:
    """False where nearly every word is a number or, in ASCII, holds a digit or a sign that names are made with.

    Words without a letter or a digit count for nothing. Scripts without spaces are never names: they are not ASCII.
    """
    words = [word for text in texts for word in _words(text[:SAMPLE])]
    return sum(map(_is_name, words)) < LIMIT * len(words)


def checked(pieces: Iterable[str], what: Callable[[], str], remedy: str) -> Generator[str, None, None]:
    """`pieces` as they are; raises UsageError where their beginning is no language. `what()` names them then."""
    source = iter(pieces)
    first: list[str] = []
    size = 0
    for piece in source:
        first.append(piece)
        size += len(piece)
        if size >= SAMPLE:
            break
    beginning = "".join(first)
    if any(map(str.isalnum, beginning)) and not is_language([beginning]):
        raise UsageError(f"{what()} holds numbers, names or hashes and no language: {remedy}.")
    yield from first
    del first
    yield from source


def _words(text: str) -> Iterator[str]:
    return (word for word in _WORD.findall(text) if any(map(str.isalnum, word)))


def _is_name(word: str) -> bool:
    if not any(map(str.isalpha, word)):
        return True
    return word.isascii() and (any(map(str.isdigit, word)) or _NAME.search(word) is not None)
