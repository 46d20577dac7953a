"""Detection on a model in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sinkquant.inputs.text import token_batches
from sinkquant.models.roles import Roles
from sinkquant.sinks.build import build_report
from sinkquant.sinks.report import SinkReport

Progress = Callable[[int, int], None]
LENGTH = 256  # tokens a detection window: sinks show in the first few, and attention costs the square
WINDOWS, HELD_OUT = 8, 4


def detect_loaded(
    model: Any,
    roles: Roles,
    tokenizer: Any,
    ids: Tensor,
    held_out: Tensor,
    *,
    bos: bool,
    label: str,
    max_prefix: int,
    progress: Progress | None = None,
) -> SinkReport:
    """Detection on a model in memory; text is cut to the detection's windows."""
    windows, rest = _windows(ids, WINDOWS), _windows(held_out, HELD_OUT)
    digest = token_batches(windows, "added" if bos else "none", label).digest
    return build_report(
        model, roles, tokenizer, windows, rest, bos=bos, label=label, digest=digest, max_prefix=max_prefix,
        progress=progress,
    )  # fmt: skip


def _windows(ids: Tensor, count: int) -> Tensor:
    length = min(LENGTH, ids.shape[1])
    flat = ids.reshape(-1)
    return flat[: len(flat) // length * length].reshape(-1, length)[:count]
