"""Files of every kind, whole and broken."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sinkquant.errors import UsageError
from sinkquant.inputs.sources import open_text

from .conftest import byte_tokenizer

ONE, TWO = "The first text.", "The second text."
ROWS = [{"id": "x1", "text": ONE}, {"id": "x2", "text": TWO}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
BOTH = f"{ONE}\n\n{TWO}\n\n"


def parquet(rows: list[dict[str, Any]], folder: Path) -> bytes:
    table = pa.Table.from_pylist(rows, schema=pa.schema({"id": pa.string(), "text": pa.string()}))
    pq.write_table(table, folder / "made")
    return (folder / "made").read_bytes()


def names(table: list[tuple[str, str | bytes, str]]) -> list[str]:
    """One id for each row. A compressed file holds the time when it was made, so its content makes none."""
    return [f"{number}-{row[0]}" for number, row in enumerate(table)]


# (name of the file, its content, its text)
GOOD: list[tuple[str, str | bytes, str]] = [
    ("a.txt", ONE, ONE),
    ("a.TXT", ONE, ONE),
    ("a", ONE, ONE),
    ("a.rst", f"{ONE}\r\n{TWO}", f"{ONE}\n{TWO}"),
    ("a.txt", "\ufeff" + ONE, ONE),
    ("a.txt", f"{ONE} " * 100_000, f"{ONE} " * 100_000),
    ("a.jsonl", LINES, BOTH),
    ("a.JSONL", LINES, BOTH),
    ("a.ndjson", LINES, BOTH),
    ("a.jsonl", "\ufeff" + LINES.replace("\n", "\r\n\r\n"), BOTH),
    ("a.jsonl", f"{json.dumps(ONE)}\n{json.dumps(TWO)}", BOTH),
    ("a.jsonl", f'{{"text": "{ONE}", "n": {"9" * 6000}}}\n{{"text": "{TWO}", "n": NaN, "m": -1e999}}', BOTH),
    ("a.jsonl", LINES.replace("first", "\\ud83d\\ude00"), BOTH.replace("first", "😀")),
    ("a.json", json.dumps(ROWS), BOTH),
    ("a.json", json.dumps(ROWS, indent=2), BOTH),
    ("a.json", json.dumps({"version": 1, "data": ROWS}), BOTH),
    ("a.json", json.dumps({"id": [1, 2], "text": [ONE, TWO]}), BOTH),
    ("a.json", json.dumps([ONE, TWO]), BOTH),
    ("a.json", json.dumps(ROWS[0]), f"{ONE}\n\n"),
    ("a.json", LINES, BOTH),
    ("a.csv", f"id,text\n1,{ONE}\n2,{TWO}\n", BOTH),
    ("a.csv", f'id;text\r\n1;"{ONE}"\r\n2;"{TWO}"\r\n', BOTH),
    ("a.csv", f'id,text\n1,"{ONE}\nAnd, ""more"""\n', f'{ONE}\nAnd, "more"\n\n'),
    ("a.csv", f"text\n{'word ' * 60_000}\n", f"{'word ' * 60_000}\n\n"),
    ("a.csv", f"text\nOne, two; three\n{ONE}\n", f"One, two; three\n\n{ONE}\n\n"),
    ("a.csv", "id,text\n1,One, two, three\n2\n", "One, two, three\n\n"),
    ("a.tsv", f"id\ttext\n1\t{ONE}\n2\t{TWO}\n", BOTH),
    ("a.txt.gz", gzip.compress(ONE.encode()), ONE),
    ("a.jsonl.gz", gzip.compress(LINES.encode()), BOTH),
    ("a.json.bz2", bz2.compress(json.dumps(ROWS).encode()), BOTH),
    ("a.csv.zst", pa.compress(f"id,text\n1,{ONE}\n2,{TWO}\n".encode(), codec="zstd", asbytes=True), BOTH),
]


def read(path: Path | str) -> str:
    return "".join(open_text(str(path), byte_tokenizer()))


@pytest.mark.parametrize(("name", "content", "text"), GOOD, ids=names(GOOD))
def test_a_file_is_read(tmp_path: Path, name: str, content: str | bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert read(tmp_path / name) == text


def test_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet(ROWS, tmp_path))
    assert read(tmp_path / "a.parquet") == BOTH


# (name of the file, its content, what is said)
BROKEN: list[tuple[str, str | bytes, str]] = [
    ("a.txt", b"\xff\xfe\x00\x80", r"is not UTF-8 text .*: convert it to UTF-8"),
    ("a.txt", "Grüße".encode("latin-1"), r"is not UTF-8 text"),
    ("a.txt", "plain".encode("utf-16-le"), r"holds zero bytes"),
    ("a.txt", b"\x7fELF\x01\x01\x00\x00", r"holds zero bytes"),
    ("a.txt", "3 14 15 92\n" * 9, r"holds numbers, names or hashes and no language: give a file with text"),
    ("a.txt.gz", ONE, r"cannot be read \(.*incorrect header check"),
    ("a.txt.gz", gzip.compress(ONE.encode() * 99)[:40], r"cannot be read \("),
    ("a.jsonl", "{broken", r"line 1 of .* is not JSON"),
    ("a.jsonl", LINES + "nonsense", r"line 3 of .* is not JSON"),
    ("a.jsonl", "[1]", r"line 1 of .* is not a JSON object"),
    ("a.jsonl", "3", r"line 1 of .* is not a JSON object"),
    ("a.jsonl", '{"text": ' + "[" * 99_999 + "]" * 99_999 + "}", r"line 1 of .* is nested too deeply"),
    ("a.jsonl", b'{"text": "\xff"}', r"is not UTF-8 text"),
    ("a.jsonl", "", r"holds no rows: give a file with text"),
    ("a.json", "[1, 2]", r"row 1 of .* is not a JSON object"),
    ("a.json", "nonsense", r"is not JSON"),
    ("a.json", '[{"text": "cut', r"is not JSON"),
    ("a.json", "[" * 99_999, r"is nested too deeply"),
    ("a.json", "", r"holds no rows"),
    ("a.csv", "", r"holds no rows"),
    ("a.csv", "id,text\n", r"holds no rows"),
    ("a.csv", b"text\na\x00b\n", r"holds zero bytes"),
    ("a.parquet", b"PAR1 cut short", r"is not a readable parquet file"),
    ("a.parquet", b"", r"is not a readable parquet file"),
    ("a.docx", ONE, r"a\.docx is of no kind that text is read from: give one of \.txt, "),
    ("a.parquet.gz", ONE, r"of no kind that text is read from|is not a readable parquet file"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN, ids=names(BROKEN))
def test_a_broken_file_is_one_sentence(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError, match=message) as caught:
        read(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_without_rows(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet([], tmp_path))
    with pytest.raises(UsageError, match=r"a\.parquet holds no rows"):
        read(tmp_path / "a.parquet")


def holding(folder: Path, *files: str) -> str:
    for file in files:
        (folder / file).touch()
    return str(folder)


ELSEWHERE: list[tuple[Callable[[Path], str], str]] = [
    (lambda folder: holding(folder, "a.txt", "b.png"), r"is a folder: name a file in it, or read it as a data set"),
    (lambda folder: holding(folder, "a.png", "b.PNG"), r"holds no text but 2 \.png: give a text file"),
    (lambda folder: str(folder), r"the folder .* is empty: give a text file"),
    (lambda folder: f"{folder}/none.txt", r"there is no text file .*none\.txt, or it may not be read"),
    (lambda folder: f"{folder}/none.jsonl:text", r"there is no text file .*none\.jsonl:text,"),
    (lambda folder: "none.csv.gz", r"there is no text file none\.csv\.gz,"),
    (lambda folder: "C:\\data\\rows.jsonl", r"there is no text file C:"),
    (lambda folder: "C:\\data\\rows.jsonl:text", r"there is no text file C:"),
    (lambda folder: "python-doc", r"did you mean 'python-docs'"),
    (lambda folder: "~nobody_of_that_name/rows.jsonl", r"there is no text file ~nobody_of_that_name/rows\.jsonl,"),
    (lambda folder: f"{folder}/{'a' * 5000}.txt", r"there is no text file .* …, or it may not be read"),
    (lambda folder: "a" * 5000, r"unknown text source 'a+ …'"),
    (lambda folder: "a\0b.txt", r"there is no text file"),
    (lambda folder: "a:" * 3000, r"unknown text source"),
    (lambda folder: "", r"unknown text source ''"),
    (lambda folder: "/dev/zero", r"is no ordinary file"),
    (lambda folder: "python-docs:evaluations", r"did you mean 'python-docs:evaluation'"),
]


@pytest.mark.parametrize(("spec", "message"), ELSEWHERE)
def test_what_is_no_file_is_one_sentence(tmp_path: Path, spec: Callable[[Path], str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(spec(tmp_path))


@pytest.mark.parametrize("spec", ["python-docs", "a.txt"])
def test_what_has_no_columns_takes_none(tmp_path: Path, spec: str) -> None:
    (tmp_path / "a.txt").write_text(ONE)
    spec = spec if spec in ("python-docs",) else str(tmp_path / spec)
    with pytest.raises(UsageError, match="has no columns, so 'text' cannot be read"):
        open_text(spec, byte_tokenizer(), 0, "text")
