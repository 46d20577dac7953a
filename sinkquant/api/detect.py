"""`detect`: find the sinks of a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sinkquant.arguments import checked
from sinkquant.errors import UsageError
from sinkquant.flow.detect import LENGTH, TRIED, WINDOWS, detect_loaded
from sinkquant.flow.session import Session
from sinkquant.models.finite import check_finite
from sinkquant.models.load import load_model
from sinkquant.models.source import resolve
from sinkquant.models.trace import trace_roles
from sinkquant.progress import Progress
from sinkquant.sinks.report import SinkReport
from sinkquant.tasks.task import Ask
from sinkquant.tasks.tasks import DEFAULT, TASKS, find_task

MOST = 16  # tokens of a prefix


@checked
def detect(
    model: str | Path | Any,
    *,
    tokenizer: Any = None,
    task: str | None = None,
    calibration: str | Path | None = None,
    bos: str = "auto",
    max_prefix: int = 4,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> SinkReport:
    """The SinkReport of a model (folder, hub id, .gguf, package:NAME, or a loaded model with its tokenizer).

    `task`: what the model is for, where its configuration does not say it; `calibration`: what it is fed meanwhile, a
    source as `quantize` takes it.
    """
    if not 1 <= max_prefix <= MOST:
        raise UsageError(f"max_prefix is {max_prefix} but must be 1 to {MOST}.")
    source = None
    if isinstance(model, str | os.PathLike):
        source = resolve(model, trust_remote_code)  # type: ignore[arg-type]
        label, purpose = source.label, find_task(source, task)
        tokenizer = purpose.processor(source)
        network = load_model(source, auto=purpose.auto, dtype=torch.float32)
        check_finite(network)
    else:
        if not isinstance(model, PreTrainedModel) or not callable(tokenizer):
            raise UsageError("detect takes a path, a name, or a transformers model together with its tokenizer=….")
        network, label, purpose = model, type(model).__name__, TASKS[task or DEFAULT]
    roles = trace_roles(network, purpose.probe(network))
    text = None if calibration is None else str(calibration)
    asked = Ask(text, WINDOWS, TRIED, LENGTH, seed=0, bos=bos, front=max_prefix, proves=False)
    data = purpose.read(asked, tokenizer, network, roles)
    session = Session(network, roles, purpose, tokenizer, label, source, data, {}, data.begin)
    return detect_loaded(session, max_prefix=max_prefix, tell=progress)
