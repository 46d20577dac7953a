"""Detection on a model in memory."""

from __future__ import annotations

from typing import Any

from sinkquant.flow.session import Session
from sinkquant.progress import Progress
from sinkquant.sinks.build import LEADING, TokenTexts, build_report
from sinkquant.sinks.report import SinkReport
from sinkquant.sinks.samples import absorb
from sinkquant.sinks.survey import survey

LENGTH = 256  # tokens a detection window: sinks show in the first few, and attention costs the square
WINDOWS, TRIED = 8, 4


def detect_loaded(session: Session, *, max_prefix: int, tell: Progress | None = None) -> SinkReport:
    """The report of the session's model: on short windows of text, with the prefix that absorbs its sinks, or on some
    samples of anything else."""
    task, data = session.task, session.data
    if not task.prefixes or not all(stack.causal for stack in session.roles.stacks):
        samples, tokenizer = session.calibration, getattr(session.processor, "tokenizer", session.processor)
        texts = TokenTexts(tokenizer)
        report = survey(
            session.model, session.roles, task, samples[0][:WINDOWS], label=session.label, digest=samples.digest,
            progress=tell, texts=texts.__getitem__,
        )  # fmt: skip
        if task.prefixes and len(session.roles.stacks) > 1 and session.roles.text is not None:
            return _with_prefix(session, report, texts, tokenizer)
        return report
    windows = task.pieces(data.calibration, LENGTH, WINDOWS * LENGTH)
    rest = task.pieces(data.held_out, LENGTH, TRIED * LENGTH)
    ids, held_out = (next(iter(part[0].tensors.values())) for part in (windows, rest))
    return build_report(
        session.model, session.roles, session.processor, ids, held_out, bos=data.begin is not None,
        label=session.label, digest=windows.digest, max_prefix=max_prefix, progress=tell,
    )  # fmt: skip


def _with_prefix(session: Session, report: SinkReport, texts: TokenTexts, tokenizer: Any) -> SinkReport:
    """The report with the prefix that absorbs the sinks of the text behind towers, images among it included."""
    stack, task, begin = session.roles.text, session.task, session.data.begin
    assert stack is not None
    mine = [sink for sink in report.sinks if sink.stack == stack.name]
    if not mine:
        return report
    batch = session.data.held_out[0][:TRIED]
    tokens = task.tokens(batch, stack)
    assert tokens is not None
    media = session.roles.media
    words = tokens[~media.find(tokens)] if media is not None else tokens.flatten()
    values, counts = words.unique(return_counts=True)
    frequent = values[counts.argsort(descending=True, stable=True)[:LEADING]].tolist()
    known = [one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if one is not None]
    content = [sink.token_id for sink in mine if sink.token_id is not None]
    later = [sink.position for sink in mine if sink.position and sink.patch is None]
    content += [int(tokens[:, place].mode().values) for place in later if place < tokens.shape[1]]
    # A model that is used with BOS keeps it in front.
    leading = [begin] if begin is not None else [*known[:1], *frequent, *content]
    choice, residual = absorb(
        session.model, session.roles, task, batch, leading, () if begin is None else (begin,), texts
    )
    return report.model_copy(update={"prefix": choice, "residual": residual})
