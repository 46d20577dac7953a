"""The command in a process of its own, on every kind of console: what is printed arrives, and nothing complains."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def shell(tmp_path: Path):
    """`shell("recipes | head -1", COLUMNS="20")` in a folder with a recipe whose name and text are not ASCII."""
    (tmp_path / "é日.yaml").write_text("description: “Größe” → 4 × 8 … 日\nimports: [kv4]\n", encoding="utf-8")
    code = "from sinkquant.cli.main import run; run()"
    (tmp_path / "sinkquant").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
    (tmp_path / "sinkquant").chmod(0o755)

    def run(line: str, **changed: str) -> subprocess.CompletedProcess[bytes]:
        root = str(Path(__file__).resolve().parents[2])
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": root} | changed
        return subprocess.run(
            ["bash", "-c", line], env=env, cwd=tmp_path, capture_output=True, check=False, timeout=120
        )

    return run


CONSOLES = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp437"},
    {"PYTHONIOENCODING": "ascii", "COLUMNS": "20", "TERM": "dumb"},
    {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
    {"NO_COLOR": "1", "COLUMNS": "20"},
    {"FORCE_COLOR": "1", "PYTHONIOENCODING": "ascii"},
    {"TERM": "dumb"},
]


@pytest.mark.parametrize("console", CONSOLES, ids=str)
@pytest.mark.parametrize("line", ["recipes", "recipes é日.yaml", "recipes é日.yaml --json", "quantize --help"])
def test_every_console_gets_what_it_can_show(shell, line: str, console: dict[str, str]) -> None:
    done = shell(f"sinkquant {line}", **console)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(console.get("PYTHONIOENCODING", "utf-8"))
    assert text.strip()
    if "--json" in line:
        assert json.loads(text)["description"] == "“Größe” → 4 × 8 … 日"


@pytest.mark.parametrize("console", CONSOLES, ids=str)
def test_sentences_arrive_on_every_console(shell, console: dict[str, str]) -> None:
    done = shell("sinkquant recipes é日", **console)
    (line,) = done.stderr.decode(console.get("PYTHONIOENCODING", "utf-8")).splitlines()
    assert done.returncode == 2
    assert line.startswith("error: unknown recipe '")


def test_plain_characters(shell) -> None:
    text = shell("sinkquant recipes é日.yaml --json", PYTHONIOENCODING="ascii").stdout.decode("ascii")
    assert json.loads(text)["description"].startswith("“Größe”")
    error = shell("sinkquant recipes é日.yam", PYTHONIOENCODING="ascii").stderr
    assert b"'\\xe9\\u65e5.yam'" in error


@pytest.mark.parametrize(
    ("line", "code", "stderr"),
    [
        ("recipes >&-", 0, b""),
        ("recipes 2>&-", 0, b""),
        ("recipes <&- >&- 2>&-", 0, b""),
        ("recipes nope 2>&-", 2, b""),
        ("recipes w8a8 --json | head -c 1 >/dev/null; test ${PIPESTATUS[0]} -le 1", 0, b""),
        ("recipes | true", 0, b""),
        ("recipes >/dev/full", 1, b"error: no space is left on the disk: free some and run the command again.\n"),
    ],
)
def test_streams_that_do_not_take_it(shell, line: str, code: int, stderr: bytes) -> None:
    done = shell(f"sinkquant {line}")
    assert (done.returncode, done.stderr) == (code, stderr)


def test_a_file_never_takes_the_place_of_a_closed_stream(shell) -> None:
    """`>&-` leaves number 1 free, and the next file that the program opens would get what is printed."""
    assert shell("sinkquant recipes >&- 2>&-").returncode == 0
    assert shell('test -z "$(sinkquant recipes 2>&1 >&-)"').returncode == 0
