from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sinkquant.errors import UsageError
from sinkquant.report.plots import plot_sinks

BEFORE = {"residual stream": [2.0, 6.0, 321.4, 200.0], "down-projection input": [2.0, 67.0, 2147.0, 4.0]}
AFTER = {"residual stream": [2.3, 2.9, 1.6, 1.5], "down-projection input": [1.9, 5.8, 2.2, 1.5]}


def sinks(path: Path) -> None:
    plot_sinks(BEFORE, AFTER, path)


def test_png_is_large_enough_and_the_same_every_time(tmp_path: Path) -> None:
    sinks(tmp_path / "a.png")
    sinks(tmp_path / "b.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert width >= 1200
    assert height >= 500


def test_svg_is_the_same_every_time_and_holds_no_date(tmp_path: Path) -> None:
    sinks(tmp_path / "a.svg")
    sinks(tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert "<svg" in text
    assert "dc:date" not in text


def test_the_panels_say_the_largest_ratios(tmp_path: Path) -> None:
    sinks(tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")  # letters are drawn as paths, with the text as a comment
    assert "residual stream: at most 321\N{MULTIPLICATION SIGN} before, 2.9\N{MULTIPLICATION SIGN} after" in text
    assert "down-projection input: at most 2147\N{MULTIPLICATION SIGN} before" in text


def test_wrong_input_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        plot_sinks(BEFORE, AFTER, tmp_path / "a.gif")
    with pytest.raises(UsageError, match="differ"):
        plot_sinks(BEFORE, {"residual stream": [1.0]}, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
