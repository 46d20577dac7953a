"""How long work tells of itself."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)` after every step of one piece of work."""
StageProgress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`, for work of several stages."""
