"""`evaluate_tasks`: a checkpoint against its baseline on tasks of lm-evaluation-harness."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sinkquant.api.load import load
from sinkquant.arguments import checked
from sinkquant.errors import UsageError
from sinkquant.evaluation.versions import versions
from sinkquant.formats.manifest import read_manifest
from sinkquant.inputs.bos import bos_policy
from sinkquant.models.load import load_model, load_tokenizer
from sinkquant.models.source import resolve
from sinkquant.tasks.causal_lm import CAUSAL_LM

BATCH = 8


@dataclass(frozen=True)
class TaskFigure:
    """One metric of one task for both models, with standard errors where lm-eval states them."""

    task: str
    metric: str
    baseline: float
    result: float
    baseline_error: float | None
    result_error: float | None


@dataclass(frozen=True)
class TaskComparison:
    """All figures, and how texts began: BOS `in context` of every window, carried by the `prefix`, or `none`."""

    figures: tuple[TaskFigure, ...]
    limit: int | None
    window: int
    bos_baseline: str
    bos_result: str
    versions: dict[str, str]


@checked
def evaluate_tasks(
    path: str | Path,
    *,
    baseline: str | Path,
    tasks: Sequence[str],
    limit: int | None = None,
    task_data: str | Path | None = None,
    window: int = 2048,
    bos: str = "auto",
    trust_remote_code: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TaskComparison:
    """Run `tasks` on both models, one after the other, in float32 and windows of `window` text tokens.

    `limit`: documents a task; `task_data`: a folder with task files of one's own. Raises UsageError where lm-eval is
    not installed, a task is unknown or the folder is none.
    """
    if find_spec("lm_eval") is None:
        raise UsageError("tasks need lm-evaluation-harness: install it with pip install 'sinkquant[eval]'.")
    folder = Path(task_data).resolve() if task_data is not None else None
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{task_data} is no folder: give the one that holds your task files.")
    from sinkquant.integrations.lm_eval import PrefixLM, find_tasks, run_tasks

    manifest, manager = read_manifest(Path(path)), find_tasks(tasks, folder)
    if manifest.task != CAUSAL_LM.name:
        raise UsageError(
            f"{path} is for {manifest.task}, and lm-evaluation-harness asks models that write text: "
            "leave --tasks out, which measures what it is for."
        )
    source = resolve(baseline, trust_remote_code)
    tokenizer = load_tokenizer(source)
    adds = bos_policy(bos, tokenizer)
    carried = tokenizer.bos_token_id is not None and tokenizer.bos_token_id in manifest.prefix
    begin = tokenizer.bos_token_id if adds else None

    def measured(model: Any, front: int | None, carries: bool) -> dict[tuple[str, str], tuple[float, float | None]]:
        dropped = tokenizer.bos_token_id if carries or adds else None
        wrapped = PrefixLM(model, tokenizer, bos=front, dropped=dropped, window=window, batch_size=BATCH)
        return run_tasks(wrapped, tasks, manager, limit=limit, task_data=folder)

    sides = []
    for done, side in enumerate(("result", "baseline")):
        if side == "result":
            sides.append(
                measured(
                    load(path, dtype=torch.float32, trust_remote_code=trust_remote_code),
                    None if carried else begin,
                    carried,
                )
            )
        else:
            float_model = load_model(source, dtype=torch.float32)
            sides.append(measured(float_model, begin, False))
        gc.collect()
        if progress is not None:
            progress(done + 1, 2)
    result, reference = sides
    figures = (TaskFigure(*key, reference[key][0], result[key][0], reference[key][1], result[key][1]) for key in result)
    return TaskComparison(
        tuple(figures), limit, window, "in context" if adds else "none",
        "prefix" if carried else ("in context" if adds else "none"), versions(),
    )  # fmt: skip
