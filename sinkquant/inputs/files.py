"""Files with text: lines of a text file, rows of a .jsonl, .json, .csv, .tsv or .parquet file, packed or not."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from sinkquant.errors import UsageError
from sinkquant.inputs.layouts import Row

TEXT = ("", ".txt", ".text", ".md", ".rst", ".raw", ".log")
ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PACKED = (".gz", ".bz2", ".zst", ".lz4")
SUFFIXES = (*TEXT[1:], *ROWS)
LONGEST = 2**28  # characters of one row: a file without line ends would fill the memory
_REST = "\0"  # a name that no column has: zero bytes are refused
CHUNK = 2**20  # characters of a line of plain text that are read at once


def is_text(path: Path) -> bool:
    """Whether `path` is plain text by its name; else it has rows. Raises UsageError for another kind of file."""
    kind = _kind(path)
    if kind not in (*TEXT, *ROWS):
        raise UsageError(f"{path} is of no kind that text is read from: give one of {', '.join(SUFFIXES)}.")
    return kind in TEXT


def has_rows(path: Path) -> bool:
    """Whether `path` has rows by its name."""
    return _kind(path) in ROWS


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file; long ones in pieces. Raises UsageError where it is no UTF-8 text."""
    with _opened(path) as file:
        while line := file.readline(CHUNK):
            yield _without_zeros(line, path)


def rows(path: Path) -> Iterator[Row]:
    """The rows of a file as mappings. Raises UsageError where it cannot be read or has other content."""
    match _kind(path):
        case ".parquet":
            yield from _parquet(path)
        case ".csv" | ".tsv":
            yield from _csv(path)
        case ".json":
            yield from _json(path)
        case _:
            yield from _jsonl(path)


def _kind(path: Path) -> str:
    """The suffix in lower case, without that of a packer."""
    packed = path.suffix.lower() in PACKED
    return Path(path.stem).suffix.lower() if packed else path.suffix.lower()


@contextmanager
def _opened(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """The text of a file, unpacked, and whatever goes wrong with it as one sentence."""
    try:
        if path.suffix.lower() in PACKED:
            import pyarrow as pa  # a requirement of `datasets`; knows more packers than Python does

            with pa.input_stream(str(path), compression="detect") as packed:
                yield TextIOWrapper(packed, encoding="utf-8-sig", newline=newline)
        else:
            with path.open(encoding="utf-8-sig", newline=newline) as file:
                yield file
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason}): convert it to UTF-8.") from error
    except OSError as error:
        reason = (error.strerror or str(error)).rstrip(".")
        raise UsageError(f"{path} cannot be read ({reason}): check the file and its permissions.") from error


def _without_zeros(text: str, path: Path) -> str:
    if "\0" in text:
        raise UsageError(f"{path} holds zero bytes, which is no UTF-8 text: give a text file, or convert it to UTF-8.")
    return text


def _parsed(text: str, where: str) -> Any:
    """JSON in which numbers are floats: what they are is of no interest here, and long ones are no error."""
    try:
        return json.loads(text, parse_int=float)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where} is not JSON ({error.msg}): write one object a line.") from error
    except RecursionError:
        raise UsageError(f"{where} is nested too deeply: give rows with text or messages.") from None


def _jsonl(path: Path) -> Iterator[Row]:
    with _opened(path) as file:
        number = 0
        while line := file.readline(LONGEST):
            number += 1
            if len(line) == LONGEST:
                raise UsageError(f"line {number} of {path} has more than {LONGEST} characters: write one row a line.")
            if line.strip():
                yield _row(_parsed(_without_zeros(line, path), f"line {number} of {path}"), f"line {number} of {path}")


def _json(path: Path) -> Iterator[Row]:
    """A list of rows, by itself or as the only list in an object; columns as lists; or lines, as in .jsonl."""
    with _opened(path) as file:
        text = _without_zeros(file.read(), path)
    if not text.strip():
        return
    try:
        content = _parsed(text, str(path))
    except UsageError:
        first = text.lstrip().partition("\n")[0]
        if not first.rstrip().endswith("}"):
            raise
        yield from _jsonl(path)
        return
    if isinstance(content, dict):
        lists = {key: value for key, value in content.items() if isinstance(value, list)}
        if len(lists) == 1 and all(isinstance(entry, dict) for entry in next(iter(lists.values()))):
            content = next(iter(lists.values()))
        elif len(lists) == len(content) and len({len(value) for value in lists.values()}) == 1:
            content = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        else:
            content = [content]
    if not isinstance(content, list):
        content = [content]
    for number, entry in enumerate(content, start=1):
        yield _row(entry, f"row {number} of {path}")


def _row(value: object, where: str) -> Row:
    """An object as it is, a string as its text, a list of messages as a conversation."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, list) and value and all(isinstance(entry, dict | str) for entry in value):
        return {"messages": value}
    raise UsageError(f"{where} is not a JSON object: write one object a line, or a list of objects.")


def _csv(path: Path) -> Iterator[Row]:
    with _opened(path, newline="") as file:
        header = file.readline(CHUNK)
    delimiter = "\t" if _kind(path) == ".tsv" else max(",;\t|", key=header.count)
    with _opened(path, newline="") as file:
        reader = csv.DictReader((_without_zeros(line, path) for line in file), delimiter=delimiter, restkey=_REST)
        while True:
            try:
                with _long_fields():
                    row = next(reader, None)
            except csv.Error as error:
                raise UsageError(
                    f"row {reader.line_num} of {path} is no CSV ({error}): write the file again, fields in quotes."
                ) from error
            if row is None:
                return
            yield _whole(row, delimiter)


def _whole(row: dict[str, Any], delimiter: str) -> Row:
    """The row with what is too many of fields back in its last column: text without quotes was cut there."""
    rest = row.pop(_REST, [])
    if rest:
        last = list(row)[-1]
        row[last] = delimiter.join([row[last], *rest])
    return {key: value.replace("\r\n", "\n") if value is not None else None for key, value in row.items()}


@contextmanager
def _long_fields() -> Iterator[None]:
    """Python's csv refuses fields beyond 128 KiB, a limit of the whole process."""
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path) -> Iterator[Row]:
    # pyarrow and not `datasets`, whose own parquet stream can abort the process at exit (see sources.py).
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # a value that Python has no type for
        raise UsageError(f"{path} is not a readable parquet file: write or copy it again.") from error
