"""A short probe and what a checkpoint makes of it, stored at export: any runtime can be held against it later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sinkquant.tasks.task import Task


def take_probe(task: Task, model: Any, ids: Sequence[int]) -> dict[str, Any]:
    """`ids`, what `task.probed` says of them (`nll`), and a digest of all answers in float32."""
    found, numbers, answers = task.probed(model, list(ids))
    digest = hashlib.sha256(answers.float().contiguous().numpy().tobytes()).hexdigest()
    return {"ids": found, "nll": numbers.tolist(), "logits": f"sha256:{digest}"}
