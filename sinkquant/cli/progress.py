"""Progress on stderr: one bar a stage, with an estimate of the remaining time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ESTIMATE_SECONDS = 600  # a block may take a minute: rich's default of 30 would forget the one before


class StageBars:
    """A context in which `step(stage, done, total)` moves the bar of `stage`; bars vanish at the end."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
            console=self._console, transient=True, speed_estimate_period=ESTIMATE_SECONDS,
            redirect_stdout=False,
            disable=not self._console.is_terminal,
        )  # fmt: skip
        self._tasks = {"load": self._bars.add_task("load", total=None)}

    def __enter__(self) -> StageBars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def step(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` parts of `stage` are finished; the first step of any stage ends the loading."""
        self._bars.update(self._tasks["load"], total=1, completed=1)
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)
        if done == total and not self._console.is_terminal:  # a log gets a line a stage instead of bars
            self._console.print(f"{stage}: {done} of {total} done")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bars off the terminal while something else is printed."""
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()
