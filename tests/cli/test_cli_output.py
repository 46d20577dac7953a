"""JSON that every parser reads, and nothing else on stdout."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from sinkquant.cli.output import plain, print_json, stdout_kept_clean
from sinkquant.cli.progress import StageBars
from sinkquant.recipes import load_recipe


@dataclass(frozen=True)
class Point:
    x: float
    where: Path


def test_records_become_plain_values() -> None:
    value = {1: Point(math.inf, Path("a/b")), "pair": (1, "é"), "recipe": load_recipe("kv4")}
    got = plain(value)
    assert got["1"] == {"x": None, "where": "a/b"}
    assert got["pair"] == [1, "é"]
    assert got["recipe"]["kv_cache"]["bits"] == 4


def test_what_libraries_print_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with stdout_kept_clean(True), StageBars() as bars:
        print("chatter")
        bars.step("detect", 3, 3)
    print_json({"kl": math.nan})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"kl": None}
    assert "chatter" in err
    assert "detect: 3 of 3 done" in err


def test_tables_may_be_printed_while_bars_are_paused(capsys: pytest.CaptureFixture[str]) -> None:
    with StageBars() as bars:
        bars.step("quantize", 1, 2)
        with bars.paused():
            print("plan")
        bars.step("quantize", 2, 2)
    out, err = capsys.readouterr()
    assert out == "plan\n"
    assert "quantize: 2 of 2 done" in err
