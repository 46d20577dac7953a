"""Time and memory of a run, by stage, and its progress."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sinkquant.errors import SinkquantError
from sinkquant.progress import Progress, StageProgress


class Stages:
    """Seconds by stage, and the peak memory (bytes) reached by its end: `with stages("load"): …`.

    `tell(stage, done, total)` hears of the begin and the end of every stage.
    """

    def __init__(self, tell: StageProgress | None) -> None:
        self._tell = tell or (lambda *_: None)
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str, *, steps: bool = False) -> Iterator[Progress]:
        """Add the time inside the context to stage `name`; with `steps` the stage tells of its progress itself, by the
        function (done, total) that the context gives."""
        start = time.perf_counter()
        if not steps:
            self._tell(name, 0, 1)
        try:
            yield lambda done, total: self._tell(name, done, total)
            if not steps:
                self._tell(name, 1, 1)
        except SinkquantError:  # says enough by itself
            raise
        except Exception as error:
            error.add_note(f"in stage {name}")
            raise
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self.peaks[name] = peak_memory()


def peak_memory() -> int:
    """Largest resident size of this process so far, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # `getrusage` would give a child at least the size that its parent had when it was started
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
