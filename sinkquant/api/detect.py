"""`detect`: find the sinks of a model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from sinkquant.arguments import checked
from sinkquant.errors import UsageError
from sinkquant.flow.detect import HELD_OUT, LENGTH, WINDOWS, detect_loaded
from sinkquant.inputs.bos import bos_policy
from sinkquant.inputs.text import load_calibration
from sinkquant.models.finite import check_finite
from sinkquant.models.fit import check_text, longest_text
from sinkquant.models.load import load_model, load_tokenizer
from sinkquant.models.source import resolve
from sinkquant.models.trace import trace_roles
from sinkquant.sinks.report import SinkReport

Progress = Callable[[int, int], None]
MOST = 16  # tokens of a prefix


@checked
def detect(
    model: str | Path | Any,
    *,
    tokenizer: Any = None,
    calibration: str | Path = "python-docs",
    bos: str = "auto",
    max_prefix: int = 4,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> SinkReport:
    """The SinkReport of a model (folder, hub id, .gguf, package:NAME, or a loaded model with its tokenizer)."""
    if not 1 <= max_prefix <= MOST:
        raise UsageError(f"max_prefix is {max_prefix} but must be 1 to {MOST}.")
    if isinstance(model, str | os.PathLike):
        source = resolve(model, trust_remote_code)  # type: ignore[arg-type]
        label = source.label
        tokenizer = load_tokenizer(source)
        network = load_model(source, dtype=torch.float32)
        check_finite(network)
    else:
        if not isinstance(model, PreTrainedModel) or not callable(tokenizer):
            raise UsageError("detect takes a path, a name, or a transformers model together with its tokenizer=….")
        network, label = model, type(model).__name__
    roles = trace_roles(network)
    longest = longest_text(network, roles, 1 + max_prefix)
    length = LENGTH if longest is None else min(LENGTH, longest)
    text = load_calibration(
        str(calibration), tokenizer, sequences=WINDOWS + HELD_OUT, length=length, seed=0, bos=False, model=network
    )
    ids = text.ids
    check_text(ids, network, str(calibration))
    spare = min(HELD_OUT, len(ids) // 2)
    return detect_loaded(
        network, roles, tokenizer, ids[: len(ids) - spare], ids[len(ids) - spare :] if spare else ids,
        bos=bos_policy(bos, tokenizer), label=label, max_prefix=max_prefix, progress=progress,
    )  # fmt: skip
