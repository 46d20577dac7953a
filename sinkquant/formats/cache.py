"""The folder for what may be lost: unfinished runs, and logs of what went wrong."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The folder: $SINKQUANT_CACHE, else $XDG_CACHE_HOME/sinkquant, else ~/.cache/sinkquant."""
    own = os.environ.get("SINKQUANT_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sinkquant"
