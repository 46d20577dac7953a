"""`sinkquant inspect`: what a checkpoint is, and what can run it."""

from __future__ import annotations

from pathlib import Path

from sinkquant.cli.options import Checkpoint, Html, Json


def inspect(out: Checkpoint, html: Html = None, json: Json = False) -> None:
    """Show what is stored in which precision, how it was made and which runtimes can load it; no model is loaded."""
    from sinkquant.api.inspect import inspect as api
    from sinkquant.cli.describe_checkpoint import checkpoint_sheets
    from sinkquant.cli.output import print_json, show

    found = api(out)
    if html is not None:
        from sinkquant.report.page import write_page

        write_page(html, Path(out), checkpoint_sheets(found))
    if json:
        print_json(found)
    else:
        show(*checkpoint_sheets(found))
