"""`inspect`: what a checkpoint is, without loading it."""

from __future__ import annotations

from pathlib import Path

from sinkquant.arguments import checked
from sinkquant.errors import UsageError
from sinkquant.formats.inspection import Inspection, inspect_folder


@checked
def inspect(path: str | Path) -> Inspection:
    """Schemes, bits, prefix, rotations, float leftovers and runtimes of the checkpoint at `path`; checksums verified.

    Raises UsageError for something that is no folder, SinkquantError for a file that is missing or has changed.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: give the folder that sinkquant quantize wrote.")
    return inspect_folder(folder)
