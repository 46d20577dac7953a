"""`evaluate`: a checkpoint against its baseline, on the same text tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from sinkquant.api.load import load
from sinkquant.arguments import checked
from sinkquant.evaluation.compare import Comparison, compare
from sinkquant.evaluation.windows import text_windows
from sinkquant.formats.manifest import read_manifest
from sinkquant.inputs.bos import bos_policy
from sinkquant.inputs.sources import open_text
from sinkquant.models.fit import check_text
from sinkquant.models.load import load_model, load_tokenizer
from sinkquant.models.source import resolve


@checked
def evaluate(
    path: str | Path,
    *,
    baseline: str | Path,
    text: str | Path | None = None,
    window: int = 2048,
    max_tokens: int | None = 8192,
    bos: str = "auto",
    trust_remote_code: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Perplexity of both, mean KL and top-1 agreement over `max_tokens` text tokens in windows of `window`.

    `text` is a source as `quantize` takes them (default: documentation of the running Python that calibration does not
    use). The baseline sees BOS in context where the policy adds one; the result carries it as its prefix or sees it in
    context as well.
    """
    source = resolve(baseline, trust_remote_code)
    tokenizer = load_tokenizer(source)
    manifest = read_manifest(Path(path))
    adds = bos_policy(bos, tokenizer)
    begin = tokenizer.bos_token_id if adds else None
    carried = begin is not None and begin in manifest.prefix
    content, label = _text(None if text is None else str(text), tokenizer)
    extra = 1 if begin is not None else 0
    ours = text_windows(content, tokenizer, window=window, max_tokens=max_tokens)
    theirs = text_windows(content, tokenizer, window=window + extra, max_tokens=max_tokens, bos_id=begin)
    result = load(path, dtype=torch.float32, trust_remote_code=trust_remote_code)
    reference = load_model(source, dtype=torch.float32)
    check_text(theirs, reference, label)
    return compare(
        reference, result, theirs, ours if carried else theirs, text=label, progress=progress,
        bos_baseline="in context" if adds else "none",
        bos_result="prefix" if tokenizer.bos_token_id in manifest.prefix else ("in context" if adds else "none"),
    )  # fmt: skip


def _text(path: str | None, tokenizer: object) -> tuple[str, str]:
    if path is None:
        from sinkquant.inputs.python_docs import python_docs

        return "\n\n".join(python_docs(split="evaluation")), "python-docs (evaluation part)"
    return "".join(open_text(path, tokenizer, 0)), Path(path).name  # type: ignore[arg-type]
