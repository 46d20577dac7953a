"""A TaskComparison as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sinkquant.report.cells import cell
from sinkquant.report.table import Sheet, rows

if TYPE_CHECKING:  # imports torch
    from sinkquant.api.evaluate_tasks import TaskComparison


def task_sheet(found: TaskComparison) -> Sheet:
    """Baseline and result of every metric side by side."""
    documents = f"{found.limit} documents a task" if found.limit else "all documents"
    title = f"Tasks ({documents}; BOS of the baseline: {found.bos_baseline}, of the result: {found.bos_result})"
    return rows(title, ("task", "metric", "baseline", "result"), [
        (one.task, one.metric, _with_error(one.baseline, one.baseline_error), _with_error(one.result, one.result_error))
        for one in found.figures
    ])  # fmt: skip


def _with_error(value: float, error: float | None) -> str:
    return cell(value) + (f" ± {cell(error)}" if error is not None else "")
