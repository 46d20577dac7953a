"""What a command prints on stdout: tables for people, or exactly one JSON object."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from sinkquant.cli.console import say
from sinkquant.errors import shown_json
from sinkquant.report.table import Sheet, to_rich


def show(*sheets: Sheet) -> None:
    """Print tables."""
    console = Console(highlight=False)
    for sheet in sheets:
        console.print(to_rich(sheet))


def print_json(value: Any) -> None:
    """Print `value` as one JSON object; what the console has no character for is escaped as JSON has it."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(plain(value), indent=2, allow_nan=False)
    say(shown_json(text))


@contextmanager
def stdout_kept_clean(wanted: bool) -> Iterator[None]:
    """While the work runs, send what libraries print to stderr, so that `--json` leaves one object on stdout."""
    if wanted:
        with redirect_stdout(sys.stderr):
            yield
    else:
        yield


def plain(value: Any) -> Any:
    """`value` from what JSON knows; NaN and infinities, which it does not, become null."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return str(value)
        case float():
            return value if math.isfinite(value) else None
        case BaseModel():
            return plain(value.model_dump(mode="json"))
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case _ if dataclasses.is_dataclass(value):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case Iterable():
            return [plain(item) for item in value]
        case _:
            return str(value)
