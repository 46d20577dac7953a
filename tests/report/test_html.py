from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from sinkquant.report.html import LONG_TABLE, render

PNG = b"\x89PNG\r\n\x1a\nnot a picture"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects text and addresses, and fails where tags do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.folded: list[bool] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "details":
            self.folded.append(("open", None) not in attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(data)


@pytest.fixture
def page() -> str:
    return render(
        {"format": 1, "recipe": {"name": "w8a8-static", "weights": {"bits": 8}}, "empty": {}},
        comparison={"result_perplexity": 24.64, "versions": {"torch": "2"}},
        sinks={
            "verdict": ["positional"],
            "sinks": [{"token": "<b>&", "position": 0}],
            "layers": [{"block": i, "ratio": 1.5} for i in range(LONG_TABLE + 1)],
        },
        figures=[("before & after", PNG)],
        title="A <model>",
    )


def test_every_value_is_on_a_page_that_nests(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    for text in (
        "A <model>",
        "result perplexity",
        "24.64",
        "w8a8-static",
        "bits",
        "positional",
        "<b>&",
        "before & after",
    ):
        assert text in parsed.texts
    assert parsed.texts.count("1.5") == LONG_TABLE + 1


def test_long_tables_start_folded(page: str) -> None:
    assert Page(page).folded == [False, True]


def test_nothing_comes_from_outside(page: str) -> None:
    (picture,) = Page(page).addresses
    assert base64.b64decode(picture.removeprefix("data:image/png;base64,")) == PNG
    assert not re.search(r"https?:|@import|url\(|<script|<link", page)


def test_the_manifest_alone_makes_a_page() -> None:
    texts = Page(render({"format": 1})).texts
    assert "Manifest" in texts
    assert "Sinks" not in texts
    assert "Figures" not in texts
