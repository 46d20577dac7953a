"""JSON objects from files that anybody may have written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from sinkquant.errors import SinkquantError


def read_bytes(path: Path, remedy: str) -> bytes:
    """The content of `path`; SinkquantError where there is no file or it cannot be read."""
    if not os.path.isfile(path):  # a folder or a pipe of that name is none
        raise SinkquantError(f"{path.parent} lacks {path.name}: {remedy}.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise SinkquantError(f"{path} cannot be read ({(error.strerror or 'refused').lower()}): {remedy}.") from error


def parse_json(content: bytes, path: Path, remedy: str) -> Any:
    """What JSON says in `content` of the file `path`."""
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # what nests too deeply, too
        raise SinkquantError(f"{path} is no valid JSON: {remedy}.") from error


def parse_object(content: bytes, path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in `content` of the file `path`; SinkquantError for anything else."""
    value = parse_json(content, path, remedy)
    if not isinstance(value, dict):
        raise SinkquantError(f"{path} holds no JSON object: {remedy}.")
    return value


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in the file `path`."""
    return parse_object(read_bytes(path, remedy), path, remedy)


@contextmanager
def understood(path: Path, remedy: str) -> Iterator[None]:
    """Whatever values in the file `path` that make no sense raise where they are used, as one sentence about it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = shorten(f"{type(error).__name__} {error}", 160, placeholder=" …")
        raise SinkquantError(f"{path} makes no sense ({reason}): {remedy}.") from error
