from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.inputs.python_docs import python_docs
from sinkquant.inputs.sources import open_text

from .conftest import byte_tokenizer


def jsonl(folder: Path, *lines: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(line + "\n" if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return str(path)


def read(spec: str | Path, tokenizer: Any = None, seed: int = 0) -> str:
    return "".join(open_text(str(spec), tokenizer or byte_tokenizer(), seed))


@pytest.mark.parametrize("suffix", [".txt", ".md", ".raw"])
def test_a_text_file_is_read_as_it_is(tmp_path: Path, suffix: str) -> None:
    text = " = Title = \n\n ünïcode <unk>\n\n\n no newline at the end"
    (tmp_path / f"a{suffix}").write_text(text, encoding="utf-8")
    assert read(tmp_path / f"a{suffix}") == text


def test_jsonl_takes_text_else_the_first_string_and_leaves_a_blank_line(tmp_path: Path) -> None:
    rows = ({"id": "x", "text": "one"}, {"n": 1, "body": "two", "more": "no"}, {"text": "  "}, "", {"text": "three"})
    assert read(jsonl(tmp_path, *rows)) == "one\n\ntwo\n\nthree\n\n"


def test_python_docs_are_named_sources() -> None:
    for spec, split in (("python-docs", "calibration"), ("python-docs:evaluation", "evaluation")):
        assert next(open_text(spec, byte_tokenizer())) == next(python_docs(split))


def test_a_data_set_is_streamed_and_shuffled_by_the_seed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    words = [f"{a}{b}" for a in "abcde" for b in "klmnopqrst"]
    jsonl(tmp_path, *({"text": word} for word in words))
    orders = [read(f"datasets:{tmp_path}::train", seed=seed).split() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(words)


def test_a_column_of_a_data_set_is_named_last(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    jsonl(tmp_path, {"text": "one", "note": "two"})
    assert read(f"datasets:{tmp_path}:::note") == "two\n\n"
    with pytest.raises(UsageError, match=r"unknown column of .* 'nota': did you mean 'note'"):
        read(f"datasets:{tmp_path}:::nota")


def test_data_set_errors_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    jsonl(tmp_path, {"text": "one"})
    with pytest.raises(SinkquantError, match=r"cannot be read.*check name, config and split") as caught:
        read(f"datasets:{tmp_path}::nosuch")
    assert "\n" not in str(caught.value)
    for spec in ("datasets:", "datasets:a:b:c:d:e"):
        with pytest.raises(UsageError, match=r"write datasets:NAME\[:CONFIG\[:SPLIT\[:COLUMN\]\]\]"):
            read(spec)

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    with pytest.raises(SinkquantError, match=r"cannot be reached.*name a file or a folder"):
        read("datasets:wikitext")


def test_a_parquet_stream_that_is_closed_early_lets_python_exit(tmp_path: Path) -> None:
    """Arrow threads that outlive the stream would abort the process (exit status 134)."""
    pytest.importorskip("datasets")
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"text": ["one", "two", "three"]}), tmp_path / "a.parquet")
    code = (
        "from types import SimpleNamespace\n"
        "from sinkquant.inputs.sources import open_text\n"
        f"text = open_text('datasets:{tmp_path}', SimpleNamespace())\n"
        "print(next(text)); text.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("one", "two", "three")
