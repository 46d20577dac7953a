"""`evaluate`: a checkpoint against its baseline, on the same samples of its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sinkquant.api.load import load
from sinkquant.arguments import checked
from sinkquant.errors import UsageError
from sinkquant.evaluation.compare import Comparison, compare, compare_on, gap
from sinkquant.evaluation.windows import text_windows
from sinkquant.evaluation.written import compare_written
from sinkquant.formats.facts import Manifest
from sinkquant.formats.manifest import read_manifest
from sinkquant.inputs.bos import bos_policy
from sinkquant.inputs.sources import open_text
from sinkquant.models.fit import check_text, places_of
from sinkquant.models.load import load_model, load_tokenizer
from sinkquant.models.source import Source, resolve
from sinkquant.models.trace import trace_roles
from sinkquant.tasks.causal_lm import CAUSAL_LM
from sinkquant.tasks.task import Ask, Task
from sinkquant.tasks.tasks import TASKS

DEFAULT = "python-docs:evaluation"
"""Text that calibration does not use."""
SAMPLES = 256


@dataclass(frozen=True)
class _Asked:
    """The arguments of `evaluate`."""

    path: str | Path
    source: Source
    data: str | None
    samples: int | None
    window: int
    max_tokens: int | None
    bos: str
    write: bool
    progress: Callable[[int, int], None] | None


@checked
def evaluate(
    path: str | Path,
    *,
    baseline: str | Path,
    data: str | Path | None = None,
    text: str | Path | None = None,
    samples: int | None = None,
    window: int = 2048,
    max_tokens: int | None = 8192,
    bos: str = "auto",
    write: bool = False,
    trust_remote_code: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """The metrics of the task that the checkpoint at `path` is for, of both models.

    `data` is a source as `quantize` takes it, `text` another word for it (default: documentation of the running Python
    that calibration does not use; tasks on anything else than text have none). `samples` of it are used (256), of
    causal language models `max_tokens` text tokens in windows of `window`; other texts have at most `window` tokens.
    The baseline sees BOS in context where the policy adds one; the result carries it as its prefix or sees it in
    context as well. `write`: both models also write an answer to every sample, which is slow, and what they write is
    compared (`evaluation.written`).
    """
    if data is not None and text is not None:
        raise UsageError("data and text are the same thing: give one of them.")
    chosen = data if data is not None else text
    asked = _Asked(
        path, resolve(baseline, trust_remote_code), None if chosen is None else str(chosen), samples, window,
        max_tokens, bos, write, progress,
    )  # fmt: skip
    manifest = read_manifest(Path(path))
    task = TASKS[manifest.task]
    return _on_text(asked, manifest) if task is CAUSAL_LM else _on_samples(asked, task, manifest)


def _on_samples(asked: _Asked, task: Task, manifest: Manifest) -> Comparison:
    """Samples as the task reads them."""
    processor = task.processor(asked.source)
    reference = load_model(asked.source, auto=task.auto, dtype=torch.float32)
    ask = Ask(
        asked.data or DEFAULT, asked.samples or SAMPLES, 0, asked.window, seed=0, bos=asked.bos,
        proves=False, each=True,
    )  # fmt: skip
    data = task.read(ask, processor, reference, trace_roles(reference, task.probe(reference)))
    begin, carried = data.begin, data.begin is not None and data.begin in manifest.prefix
    result = load(asked.path, dtype=torch.float32, trust_remote_code=asked.source.trusted)
    found = compare_on(
        task, reference, result, task.begun(data.calibration, begin),
        task.begun(data.calibration, None if carried else begin), text=data.calibration.source,
        bos_baseline=_stands(begin is not None), bos_result="prefix" if carried else _stands(begin is not None),
        progress=asked.progress,
    )  # fmt: skip
    figures = dict(found.figures)
    others = task.mismatched(data.calibration)
    if others is not None:
        swapped = compare_on(
            task, reference, result, task.begun(others, begin), task.begun(others, None if carried else begin)
        )
        figures |= gap(found, swapped)
    if not asked.write:
        return found.model_copy(update={"figures": figures})
    figures |= compare_written(task, processor, reference, result, data.calibration)
    return found.model_copy(update={"figures": figures})


def _on_text(asked: _Asked, manifest: Manifest) -> Comparison:
    """Consecutive windows of text."""
    if asked.write:
        raise UsageError("what a causal language model writes has no right answer here: leave out --write.")
    if asked.samples is not None:
        raise UsageError(
            "samples are for other tasks; of a causal language model max_tokens are scored (--max-tokens)."
        )
    tokenizer = load_tokenizer(asked.source)
    adds = bos_policy(asked.bos, tokenizer)
    begin = tokenizer.bos_token_id if adds else None
    carried = begin is not None and begin in manifest.prefix
    content, label = _text(asked, tokenizer)
    result = load(asked.path, dtype=torch.float32, trust_remote_code=asked.source.trusted)
    reference = load_model(asked.source, dtype=torch.float32)
    most, places = asked.max_tokens, [places_of(model.config) for model in (result, reference)]
    window = min([asked.window, *(count - adds for count in places if count is not None)])
    ours = text_windows(content, tokenizer, window=window, max_tokens=most)
    theirs = text_windows(content, tokenizer, window=window + adds, max_tokens=most, bos_id=begin)
    check_text(theirs, reference, label)
    return compare(
        reference, result, theirs, ours if carried else theirs, text=label, progress=asked.progress,
        bos_baseline=_stands(adds),
        bos_result="prefix" if tokenizer.bos_token_id in manifest.prefix else _stands(adds),
    )  # fmt: skip


def _stands(added: bool) -> str:
    """Where BOS stands."""
    return "in context" if added else "none"


def _text(asked: _Asked, tokenizer: Any) -> tuple[str, str]:
    if asked.data is None:
        from sinkquant.inputs.python_docs import python_docs

        return "\n\n".join(python_docs(split="evaluation")), "python-docs (evaluation part)"
    return "".join(open_text(asked.data, tokenizer, 0)), Path(asked.data).name
