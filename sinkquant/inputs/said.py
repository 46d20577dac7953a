"""Clauses about what was read and what was left out."""

from __future__ import annotations

NAMED = 3  # files that a clause names


def number(count: int, what: str) -> str:
    """'1 image', '2 classes'."""
    return f"{count} {what}" if count == 1 else f"{count} {what}{'es' if what.endswith('s') else 's'}"


class Left:
    """What was left out, and why: an entry's name and the end of a sentence about it, such as 'is empty'."""

    def __init__(self) -> None:
        self._entries: list[str] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: str, reason: str) -> None:
        self._entries.append(f"{name} {reason}")

    @property
    def said(self) -> str:
        """A clause that names the first few; '' where nothing was left out."""
        if not self._entries:
            return ""
        more = f" and {len(self) - NAMED} more" if len(self) > NAMED else ""
        return f"{len(self)} left out ({', '.join(self._entries[:NAMED])}{more})"
