from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from sinkquant.evaluation.compare import Comparison
from sinkquant.report.cells import cell, flatten
from sinkquant.report.table import (
    Sheet,
    comparison_table,
    key_values,
    numeric_columns,
    records,
    rows,
    to_markdown,
    to_rich,
)


def on_terminal(sheet: Sheet) -> str:
    out = io.StringIO()
    Console(file=out, width=200, color_system=None).print(to_rich(sheet))
    return out.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        ([], "\N{EN DASH}"),
        ({}, "\N{EN DASH}"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (24.5176, "24.52"),
        (26650.3, "26650"),
        (0.000004, "4e-06"),
        (math.inf, "inf"),
        ("prefix", "prefix"),
        (" the", "' the'"),
        ("\n", "'\\n'"),
        ([507, 3], "507, 3"),
        ([{"position": 0, "token": " the"}, {"position": 9}], "position 0, token ' the'; position 9"),
    ],
)
def test_cells(value: Any, text: str) -> None:
    assert cell(value) == text


def test_nested_mappings_become_named_rows() -> None:
    nested = {"a": 1, "long_name": {"bits": 4, "of": {"x": []}}, "empty": {}, "folder/some_file.bin": 2}
    assert flatten(nested) == [
        ("a", 1),
        ("long name: bits", 4),
        ("long name: of: x", []),
        ("empty", {}),
        ("folder/some_file.bin", 2),
    ]
    assert key_values("t", nested).rows[1] == ("long name: bits", "4")


def test_records_take_columns_from_all_items_and_fill_gaps() -> None:
    sheet = records("layers", [{"block": 0, "down_input": 2.06}, {"block": 1, "heads": [3]}])
    assert sheet.columns == ("block", "down input", "heads")
    assert sheet.rows == (("0", "2.06", "\N{EN DASH}"), ("1", "\N{EN DASH}", "3"))
    assert numeric_columns(sheet) == [True, True, True]
    assert rows("short", ["a", "b"], [["x"]]).rows == (("x", ""),)


def test_terminal_and_markdown_show_the_same_cells() -> None:
    sheet = rows("Sizes", ["model", "MB"], [("smol", 270.5), ("[bold]x[/b]", 140)])
    shown = on_terminal(sheet)
    for text in ("Sizes", "model", "MB", "smol", "270.5", "[bold]x[/b]", "140"):
        assert text in shown
    assert to_markdown(sheet) == (
        "**Sizes**\n\n| model | MB |\n| --- | ---: |\n| smol | 270.5 |\n| [bold]x[/b] | 140 |\n"
    )


def test_markdown_keeps_special_tokens_visible() -> None:
    sheet = Sheet("", ("token",), (("<|im_start|>",), ("a*b`c\\",)))
    assert to_markdown(sheet) == "| token |\n| --- |\n| \\<\\|im_start\\|> |\n| a\\*b\\`c\\\\ |\n"


def test_comparison_table_shows_both_sides_and_extra_rows() -> None:
    comparison = Comparison(
        baseline_perplexity=24.5176,
        result_perplexity=24.64,
        kl=0.01234,
        top1_agreement=0.9678,
        tokens=8188,
        windows=4,
        window=2048,
        bos_baseline="none",
        bos_result="constant",
        text="wiki",
        versions={},
        seconds_baseline=3,
        seconds_result=4,
    )
    sheet = comparison_table(comparison, [("size", "270 MB", "140 MB")])
    assert "wiki, 8188 tokens, 4 windows of 2048" in sheet.title
    assert ("perplexity", "24.52", "24.64") in sheet.rows
    assert any(row[2] == "0.01234" for row in sheet.rows)
    assert any(row[2] == "96.78%" for row in sheet.rows)
    assert ("begin of text", "none", "constant") in sheet.rows
    assert sheet.rows[-1] == ("size", "270 MB", "140 MB")
