"""Single values as a reader wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sinkquant.errors import shown

NOTHING = "\N{EN DASH}"


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested mappings as (`outer: inner`, value) pairs, in order."""
    leaves: list[tuple[str, Any]] = []
    for key, value in mapping.items():
        name = f"{prefix}{words(key)}"
        leaves += flatten(value, f"{name}: ") if isinstance(value, Mapping) and value else [(name, value)]
    return leaves


def cell(value: Any) -> str:
    """A value as a reader wants it: four significant digits, yes/no, lists with commas, a dash for nothing."""
    match value:
        case None:
            return NOTHING
        case str():
            # a token such as " the" or a line break is shown as Python writes it
            return shown(value if value == value.strip() and value.isprintable() else repr(value))
        case bool():
            return "yes" if value else "no"
        case float():
            # scientific notation only where plain digits would be unreadable
            return f"{value:.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"
        case Mapping() | list() | tuple() | set() | frozenset() if not value:
            return NOTHING
        case Mapping():
            return ", ".join(f"{shown(str(key))} {cell(item)}" for key, item in value.items())
        case list() | tuple() | set() | frozenset():
            separator = "; " if any(isinstance(item, Mapping | list | tuple) for item in value) else ", "
            return separator.join(cell(item) for item in value)
        case _:
            return shown(str(value))


def words(key: object) -> str:
    """A key as words: `top1_agreement` → `top1 agreement`; a path or a file name stays as it is."""
    name = shown(str(key))
    return name.replace("_", " ") if name.isidentifier() else name
