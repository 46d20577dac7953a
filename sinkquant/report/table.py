"""Tables as plain data, shown with rich on a terminal and as Markdown in a file: one function for both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sinkquant.errors import shown
from sinkquant.report.cells import NOTHING, cell, flatten, words

if TYPE_CHECKING:  # both are loaded by whoever has something to show, not by every command
    from rich.console import Group

    from sinkquant.evaluation.compare import Comparison


@dataclass(frozen=True)
class Sheet:
    """A titled table of texts; every row is as long as `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Sheet:
    """A table of values, formatted by `cell`; short rows are filled up with empty cells."""
    filled = tuple(tuple(cell(value) for value in row) + ("",) * (len(columns) - len(row)) for row in rows)
    return Sheet(shown(title), tuple(map(shown, columns)), filled)


def records(title: str, items: Sequence[Mapping[str, Any]]) -> Sheet:
    """A table with one row a mapping; the columns are all their keys in order of appearance."""
    keys = list(dict.fromkeys(key for item in items for key in item))
    return rows(title, [words(key) for key in keys], [[item.get(key) for key in keys] for item in items])


def key_values(title: str, mapping: Mapping[str, Any]) -> Sheet:
    """A two-column table; a nested mapping becomes rows named `outer: inner`."""
    return rows(title, ["", ""], flatten(mapping))


def comparison_table(comparison: Comparison, extra: Iterable[Sequence[Any]] = ()) -> Sheet:
    """Baseline and result side by side; `extra` rows are (what, baseline, result), for instance the size."""
    c = comparison
    scored = f"{c.tokens} tokens, {c.windows} windows of {c.window}" if c.window else f"{c.windows} samples"
    known = [
        ("perplexity", c.baseline_perplexity, c.result_perplexity),
        ("mean KL to the baseline (nats/token)", None, c.kl),
        ("same first choice", None, None if c.top1_agreement is None else f"{c.top1_agreement:.2%}"),
    ]
    return rows(
        f"Result against its baseline ({c.text + ', ' if c.text else ''}{scored})",
        ["", "baseline", "result"],
        [
            *(row for row in known if row[-1] is not None),
            *((words(name), *pair) for name, pair in c.figures.items()),
            *([] if c.routed_rows is None else [("rows beyond the range, in float", None, f"{c.routed_rows:.3%}")]),
            *([("begin of text", c.bos_baseline, c.bos_result)] if c.window else []),
            ("seconds to score", f"{c.seconds_baseline:.1f}", f"{c.seconds_result:.1f}"),
            *extra,
        ],
    )


def numeric_columns(sheet: Sheet) -> list[bool]:
    """For each column whether it holds numbers only (dashes and blanks aside), so that it reads best flush right."""
    number = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?( ?(%|s|[KMG]?i?B))?|-?inf|nan")
    columns = [[row[i] for row in sheet.rows if row[i] not in ("", NOTHING)] for i in range(len(sheet.columns))]
    return [bool(column) and all(number.fullmatch(text) for text in column) for column in columns]


def to_rich(sheet: Sheet) -> Group:
    """The sheet for a terminal, under its title."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_header=any(sheet.columns))
    for name, numeric in zip(sheet.columns, numeric_columns(sheet), strict=True):
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text(text) for text in row))  # Text: a token such as "[/b]" is no markup
    return Group(Text(sheet.title, style="bold"), table)


def to_markdown(sheet: Sheet) -> str:
    """The sheet in GitHub Markdown, its title as a bold line."""

    def plain(text: str) -> str:
        return re.sub(r"([\\`*|<])", r"\\\1", text).replace("\n", " ")

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = line("---:" if numeric else "---" for numeric in numeric_columns(sheet))
    lines = [line(map(plain, sheet.columns)), rule, *(line(map(plain, row)) for row in sheet.rows)]
    return (f"**{plain(sheet.title)}**\n\n" if sheet.title else "") + "\n".join(lines) + "\n"
