"""Names that users may add to: what ships is imported when it is asked for, what they register is there at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Generic, TypeVar

from sinkquant.errors import UsageError, unknown

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Entries of one `kind` by name; `built_in` maps names to `module:attribute`."""

    def __init__(self, kind: str, built_in: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = dict(built_in)

    def register(self, name: str, entry: Entry) -> None:
        """Add `entry` under a name that is free; raises UsageError where it is taken."""
        if name in self._entries:
            raise UsageError(f"there is a {self.kind} {name!r} already: register yours under another name.")
        self._entries[name] = entry

    @contextmanager
    def registered(self, name: str, entry: Entry) -> Iterator[None]:
        """The same, for the time of a context."""
        self.register(name, entry)
        try:
            yield
        finally:
            del self._entries[name]

    def __getitem__(self, name: str) -> Entry:
        """The entry; raises UsageError with the nearest name and all names where there is none."""
        if name not in self._entries:
            raise unknown(self.kind, name, self)
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(import_module(module), attribute)
        found: Entry = entry
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """The names, those that ship first."""
        return iter(self._entries)
