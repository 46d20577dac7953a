"""Detection on a model in memory."""

from __future__ import annotations

from sinkquant.flow.session import Session
from sinkquant.progress import Progress
from sinkquant.sinks.build import build_report
from sinkquant.sinks.report import SinkReport
from sinkquant.sinks.survey import survey

LENGTH = 256  # tokens a detection window: sinks show in the first few, and attention costs the square
WINDOWS, TRIED = 8, 4


def detect_loaded(session: Session, *, max_prefix: int, tell: Progress | None = None) -> SinkReport:
    """The report of the session's model: on short windows of text, with the prefix that absorbs its sinks, or on some
    samples of anything else."""
    task, data = session.task, session.data
    if not task.prefixes or not all(stack.causal for stack in session.roles.stacks):
        samples, tokenizer = session.calibration, getattr(session.processor, "tokenizer", session.processor)
        return survey(
            session.model, session.roles, task, samples[0][:WINDOWS], label=session.label, digest=samples.digest,
            progress=tell, texts=lambda token: tokenizer.decode([token]),
        )  # fmt: skip
    windows = task.pieces(data.calibration, LENGTH, WINDOWS * LENGTH)
    rest = task.pieces(data.held_out, LENGTH, TRIED * LENGTH)
    ids, held_out = (next(iter(part[0].tensors.values())) for part in (windows, rest))
    return build_report(
        session.model, session.roles, session.processor, ids, held_out, bos=data.begin is not None,
        label=session.label, digest=windows.digest, max_prefix=max_prefix, progress=tell,
    )  # fmt: skip
