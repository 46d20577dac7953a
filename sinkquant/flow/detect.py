"""Detection on a model in memory."""

from __future__ import annotations

from sinkquant.flow.session import Session, Tell
from sinkquant.sinks.build import build_report
from sinkquant.sinks.report import SinkReport

LENGTH = 256  # tokens a detection window: sinks show in the first few, and attention costs the square
WINDOWS, HELD_OUT = 8, 4


def detect_loaded(session: Session, *, max_prefix: int, tell: Tell | None = None) -> SinkReport:
    """The report of the session's model, on short windows of its data."""
    task, data = session.task, session.data
    windows = task.pieces(data.calibration, LENGTH, WINDOWS * LENGTH)
    rest = task.pieces(data.held_out, LENGTH, HELD_OUT * LENGTH)
    return build_report(
        session.model, session.roles, session.processor, windows[0].tensors["input_ids"], rest[0].tensors["input_ids"],
        bos=data.begin is not None, label=session.label, digest=windows.digest, max_prefix=max_prefix,
        progress=tell,
    )  # fmt: skip
