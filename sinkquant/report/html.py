"""One self-contained HTML page about a checkpoint: no script, no font and no picture from anywhere else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape as escape_markup
from string import Template
from typing import Any

from sinkquant.errors import shown
from sinkquant.report.cells import words
from sinkquant.report.table import Sheet, key_values, numeric_columns, records

LONG_TABLE = 12
"""Rows above which a table starts folded."""

PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light; --ink: #24292f; --soft: #57606a; --line: #d0d7de; --band: #f6f8fa; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: #fff;
       font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1.5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3, summary { font-size: 1rem; font-weight: 600; margin: 1.25rem 0 .5rem; }
summary { cursor: pointer; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
         overflow-wrap: anywhere; min-width: 3.5rem; }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; }
td:first-child { color: var(--soft); min-width: 9rem; overflow-wrap: normal; }
tbody tr:hover { background: var(--band); }
figure { margin: 1.25rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .9rem; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


def render(
    manifest: Mapping[str, Any],
    *,
    comparison: Mapping[str, Any] | None = None,
    sinks: Mapping[str, Any] | None = None,
    figures: Sequence[tuple[str, bytes]] = (),
    sheets: Sequence[Sheet] = (),
    title: str = "sinkquant report",
) -> str:
    """The page as text; the same arguments give the same page.

    `comparison` and `sinks` are plain mappings (`model_dump()` of the models), `figures` pairs of caption and PNG,
    `sheets` finished tables.
    Their keys and those of the manifest are shown as they come: a mapping becomes a table, a mapping of mappings a
    section, a list of mappings a table with one row each.
    """
    parts = []
    if comparison:
        parts.append(_section("Result against its baseline", comparison))
    parts += [f"<h2>{escape(sheet.title)}</h2>\n{_table(sheet)}" for sheet in sheets]
    if figures:
        parts.append("<h2>Figures</h2>" + "".join(_figure(caption, png) for caption, png in figures))
    if sinks:
        parts.append(_section("Sinks", sinks))
    parts += [_section("Manifest", manifest)] if manifest else []
    return PAGE.substitute(title=escape(title), body="\n".join(parts))


def escape(text: str) -> str:
    """`text` as HTML that shows it, characters without a shape of their own included."""
    return escape_markup(shown(text))


def _section(name: str, content: Mapping[str, Any]) -> str:
    return f"<h2>{escape(name)}</h2>\n{_mapping(content)}"


def _mapping(content: Mapping[str, Any]) -> str:
    """Single values first in one table, then every nested mapping or list of mappings under its own heading."""
    single = {key: value for key, value in content.items() if not _nested(value)}
    parts = [_table(key_values("", single))] if single else []
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            parts.append(f"<h3>{escape(words(key))}</h3>\n{_mapping(value)}")
        elif _nested(value):
            parts.append(_foldable(records(words(key), value)))
    return "\n".join(parts)


def _nested(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _foldable(sheet: Sheet) -> str:
    state = "" if len(sheet.rows) > LONG_TABLE else " open"
    summary = f"{escape(sheet.title)} ({len(sheet.rows)})"
    return f"<details{state}><summary>{summary}</summary>\n{_table(sheet)}</details>"


def _table(sheet: Sheet) -> str:
    classes = [' class="number"' if numeric and i else "" for i, numeric in enumerate(numeric_columns(sheet))]

    def line(tag: str, texts: Sequence[str]) -> str:
        cells = (f"<{tag}{kind}>{escape(text)}</{tag}>" for kind, text in zip(classes, texts, strict=True))
        return "<tr>" + "".join(cells) + "</tr>\n"

    head = f"<thead>{line('th', sheet.columns)}</thead>\n" if any(sheet.columns) else ""
    body = "".join(line("td", row) for row in sheet.rows)
    return f'<div class="wide"><table>\n{head}<tbody>\n{body}</tbody></table></div>\n'


def _figure(caption: str, png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>\n'
