"""What comes from files never steers the terminal: every place that prints shows it, whatever it is made of."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from sinkquant.cli.failures import one_sentence
from sinkquant.cli.output import print_json
from sinkquant.errors import STEERING, SinkquantError, shown, unknown
from sinkquant.report.html import render
from sinkquant.report.table import key_values, records, rows, to_markdown, to_rich

HOSTILE = [
    "\x1b[2J\x1b]0;owned\x07",  # clears the screen and renames the window
    "\x9b31m",  # the same in one C1 character
    "a\rb\nc\x08",
    "gpj.\u202eexe",  # turns the direction of what follows
    "\u2028\u2029\u200b\x7f\x00\x85",
    "\ud800",
    "\U000e0041",
]


def in_a_sentence(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(BaseException), one_sentence():  # noqa: B017
        raise SinkquantError(f"{text} is broken: copy it again.")
    return capsys.readouterr().err


def in_python(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    return str(SinkquantError(text)) + str(unknown(text, text, [text, text + "b"]))


def in_a_table(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    out = Console(file=StringIO(), width=200, force_terminal=True)
    plain = [
        rows(text, ("", text), [(text, [text], {text: text}, (text, None))]), key_values(text, {text: {text: text}}),
        records(text, [{text: text}]),
    ]  # fmt: skip
    for sheet in plain:
        out.print(to_rich(sheet), style="none", highlight=False)
    return "".join(to_markdown(sheet) for sheet in plain) + _without_styles(out.file.getvalue())


def _without_styles(text: str) -> str:
    for style in ("\x1b[0m", "\x1b[1m", "\x1b[2m"):
        text = text.replace(style, "")
    return text


def on_a_page(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    content = {text: text, "a": {text: [text]}, "b": [{text: text}]}
    return render(content, comparison=content, sinks=content, figures=[(text, b"")], title=text)


def in_json(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    print_json({"name": [text], text: text})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": [text], text: text}  # nothing is lost
    return printed


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", [in_a_sentence, in_python, in_a_table, on_a_page, in_json])
def test_nothing_steers(place: Callable[..., str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = place(text, capsys).replace("\n", "")
    assert not {one for one in printed if unicodedata.category(one) in STEERING}


def test_a_sentence_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(in_a_sentence("a\nb", capsys).splitlines()) == 1


@pytest.mark.parametrize("text", ["größer", "模型　名", "a b", "R1 → R2", "🙂", ""])
def test_what_has_a_shape_stays(text: str) -> None:
    assert shown(text) == text


def test_an_escape_is_readable_and_not_escaped_again() -> None:
    assert shown("\x1b[31m") == r"\x1b[31m"
    assert shown(shown("\x1b[31m")) == r"\x1b[31m"
