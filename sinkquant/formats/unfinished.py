"""Where unfinished runs are kept, and for how long."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

from sinkquant.formats.cache import cache_root
from sinkquant.formats.lock import lock

DAYS, RUNS = 14, 8  # an unfinished run goes away that nothing was written to for so long, or that so many came after


def unfinished_root() -> Path:
    """The folder that holds one folder a run. RuntimeError where there is no home folder."""
    return cache_root().absolute() / "unfinished"


def drop_old(root: Path) -> None:
    """Remove what is older than DAYS, and the oldest beyond RUNS; a run that is going on stays."""
    runs = sorted((path.stat().st_mtime, path) for path in root.iterdir() if path.is_dir())
    since = time.time() - DAYS * 86400
    for index, (written, run) in enumerate(reversed(runs)):
        if index >= RUNS or written < since:
            with suppress(OSError):
                held = lock(run / "lock")
                if held is not None:
                    with held:
                        shutil.rmtree(run)
