"""The HTML page of a checkpoint: tables, the sinks block by block, the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sinkquant.errors import UsageError
from sinkquant.formats.durable import replace_file
from sinkquant.formats.manifest import read_manifest
from sinkquant.report.html import render
from sinkquant.report.plots import plot_sinks
from sinkquant.report.table import Sheet

PLACES = {"residual_ratio": "residual stream", "down_ratio": "down-projection input"}
CAPTION = "The original model, block by block: the largest token over the median token."


def check_place(file: Path, folder: Path) -> None:
    """Raise UsageError for a page inside the checkpoint `folder`, whose files are fixed, or in no folder at all."""
    if not file.parent.is_dir():
        raise UsageError(f"{file.parent} is no folder: make it first, or choose another place for the page.")
    if folder.resolve() in file.resolve().parents:
        raise UsageError(f"{file} lies inside the checkpoint, whose files are fixed: choose a place outside.")


def write_page(file: Path, folder: Path, sheets: Sequence[Sheet]) -> None:
    """Write `file`, a page that needs nothing else, about the checkpoint in `folder`, beginning with `sheets`."""
    check_place(file, folder)
    manifest = read_manifest(folder)
    report = manifest.report.model_dump(exclude_unset=True) if manifest.report else None
    facts = manifest.model_dump(exclude_unset=True, exclude={"report", "probe"})
    title = f"{manifest.model}, {manifest.recipe.name}"
    page = render(facts, sinks=report, figures=sink_figures(report), sheets=sheets, title=title)
    replace_file(file, page.encode())


def sink_figures(report: Mapping[str, Any] | None) -> list[tuple[str, bytes]]:
    """Captions and PNGs of a SinkReport as JSON holds it; none without layers."""
    layers = (report or {}).get("layers") or []
    if not layers:
        return []
    ratios = {name: [layer[key] for layer in layers] for key, name in PLACES.items()}
    with TemporaryDirectory() as scratch:
        picture = Path(scratch) / "sinks.png"
        plot_sinks(ratios, None, picture)
        return [(CAPTION, picture.read_bytes())]
