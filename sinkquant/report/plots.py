"""A picture of sinks before and after; written as PNG or SVG, the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sinkquant.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER, INK, FAINT = "#D55E00", "#0072B2", "#24292f", "#d0d7de"
"""Vermillion and blue of the Okabe-Ito palette: told apart with every kind of colour vision, and in grey."""

FORMATS = (".png", ".svg")


def plot_sinks(
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]] | None,
    path: Path | str,
    *,
    title: str = "How far the largest token stands out, block by block",
    labels: tuple[str, str] = ("before", "after: prefix + rotation"),
) -> None:
    """One panel a key (a place in the block): largest token over median token, for every block.

    `before` and `after` map the same place names to one ratio a block (1 = no token stands out); without `after` there
    is one line a panel. The suffix of `path` (.png or .svg) chooses the format. Errors: `UsageError` for other suffixes
    or places that differ.
    """
    if after is not None and list(before) != list(after):
        raise UsageError(
            f"the places before ({', '.join(before)}) and after ({', '.join(after)}) differ: give the same."
        )
    with _figure(path, width=10, height=4.2) as figure:
        panels = figure.subplots(1, len(before), sharey=True, squeeze=False)[0]
        for axes, place in zip(panels, before, strict=True):
            _ratio_panel(axes, before[place], after[place] if after else None)
            worst = f"at most {_times(before[place])}" + (f" before, {_times(after[place])} after" if after else "")
            axes.set_title(f"{place}: {worst}", loc="left", fontsize=11, color=INK)
        panels[0].set_ylabel("largest token ÷ median token")
        handles = panels[0].get_lines()[:2]
        if after:
            figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=10.5)
        figure.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold", color=INK)


def _ratio_panel(axes: Axes, before: Sequence[float], after: Sequence[float] | None) -> None:
    _style(axes)
    axes.plot(before, "-o", color=BEFORE, linewidth=2, markersize=4.5)
    if after is not None:
        axes.plot(after, "-s", color=AFTER, linewidth=2, markersize=4)
    axes.set_xlabel("block")


def _times(ratios: Sequence[float]) -> str:
    worst = max(ratios)
    return f"{worst:.{0 if worst >= 10 else 1}f}\N{MULTIPLICATION SIGN}"


def _style(axes: Axes) -> None:
    """A log scale with plain numbers, light horizontal lines and no box."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(y=0.14)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(which="both", left=False, colors=INK)


@contextmanager
def _figure(path: Path | str, *, width: float, height: float) -> Iterator[Figure]:
    """A light figure without pyplot's global state; written to `path` when the block ends."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise UsageError(
            f"a picture cannot be written as {path.name!r}: choose a name that ends in {' or '.join(FORMATS)}."
        )
    import matplotlib.style
    from matplotlib.figure import Figure

    # the salt names the parts of an SVG, which are random otherwise; "default" leaves the user's own style out
    own = {"svg.hashsalt": "sinkquant", "text.color": INK, "axes.labelcolor": INK}
    with matplotlib.style.context(["default", own]):
        figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
        figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
        yield figure
        buffer = io.BytesIO()
        stamp = "Date" if path.suffix == ".svg" else "Software"
        figure.savefig(buffer, format=path.suffix[1:], metadata={stamp: None})
    path.write_bytes(buffer.getvalue())
