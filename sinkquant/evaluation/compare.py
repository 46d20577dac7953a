"""A quantized model against its baseline: both go through one code path, on the same tokens."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from sinkquant.errors import UsageError
from sinkquant.evaluation.metric import PERPLEXITY
from sinkquant.evaluation.score import (
    RESULT,
    Progress,
    chunk_rows,
    head_is_separate,
    require_finite,
    scored_range,
    token_logprobs,
)
from sinkquant.evaluation.versions import versions
from sinkquant.runtime.routing import RoutedRows


class Comparison(BaseModel):
    """How far a result is from its baseline.

    `kl` is the mean of KL(baseline ‖ result) in nats a token; `top1_agreement` the share (0…1) of scored tokens for
    which both models put the same token first; `tokens` the number of scored tokens, `window` the tokens that the
    baseline sees at most; `seconds_*` the wall time each model took for its log-probabilities. `routed_rows` is the
    share (0…1) of the rows in front of routing linears that the result computed in float; None where nothing routes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    baseline_perplexity: float
    result_perplexity: float
    kl: float
    top1_agreement: float
    tokens: int
    windows: int
    window: int
    bos_baseline: str
    bos_result: str
    text: str
    versions: dict[str, str]
    seconds_baseline: float
    seconds_result: float
    routed_rows: float | None = None


def compare(
    baseline: PreTrainedModel,
    result: PreTrainedModel,
    windows_baseline: Tensor,  # (N, a + T)
    windows_result: Tensor,  # (N, b + T)
    *,
    scored: slice = slice(1, None),
    text: str = "",
    bos_baseline: str = "none",
    bos_result: str = "none",
    progress: Progress | None = None,
) -> Comparison:
    """Perplexity of both models, mean KL and top-1 agreement, window by window and chunk by chunk.

    The windows may differ by leading tokens (a BOS that the result carries as a constant of its attention); the T text
    tokens that follow must be the same. `scored` counts in text tokens, so both models are scored on the same targets.
    `text`, `bos_baseline` and `bos_result` are labels that are passed on.

    Errors: `UsageError` when the windows hold different text, the vocabularies differ or nothing can be scored;
    `SinkquantError` where a model's output is not finite.
    """
    lead_baseline, lead_result, width = _align(windows_baseline, windows_result)
    first, last = scored_range(scored, width)
    _require_same_vocabulary(baseline, result)

    chunk = chunk_rows(baseline)
    sides = [
        _Side(baseline, windows_baseline, lead_baseline - 1, chunk),
        _Side(result, windows_result, lead_result - 1, chunk),
    ]
    sums = torch.zeros(4, dtype=torch.float64)
    with RoutedRows(result) as routed:
        for index in range(len(windows_baseline)):
            targets = windows_baseline[index, lead_baseline + first : lead_baseline + last].split(chunk)
            p_chunks, q_chunks = (side.logprobs(index, first, last) for side in sides)
            for part, p, q in zip(targets, p_chunks, q_chunks, strict=True):
                sums += _chunk_sums(p, q.to(p.device), part)
            require_finite(float(sums[0]), "the baseline", index)
            require_finite(float(sums[1:].sum()), RESULT, index)
            if progress is not None:
                progress(index + 1, len(windows_baseline))

    tokens = len(windows_baseline) * (last - first)
    nll_baseline, nll_result, kl, agreement = (sums / tokens).tolist()
    return Comparison(
        baseline_perplexity=PERPLEXITY.value(nll_baseline),
        result_perplexity=PERPLEXITY.value(nll_result),
        kl=kl,
        top1_agreement=agreement,
        tokens=tokens,
        windows=len(windows_baseline),
        window=windows_baseline.shape[1],
        bos_baseline=bos_baseline,
        bos_result=bos_result,
        text=text,
        versions=versions(),
        seconds_baseline=sides[0].seconds,
        seconds_result=sides[1].seconds,
        routed_rows=routed.share,
    )


class _Side:
    """One of the two models with its windows, and the seconds spent on its log-probabilities so far."""

    def __init__(self, model: PreTrainedModel, windows: Tensor, offset: int, chunk: int) -> None:
        self.model, self.windows, self.offset, self.chunk = model, windows, offset, chunk
        self.separate_head = head_is_separate(model, windows)
        self.seconds = 0.0

    def logprobs(self, index: int, first: int, last: int) -> Iterator[Tensor]:
        """Log-probabilities (≤ chunk, V) of the text tokens first ≤ i < last of window `index`."""
        positions = range(first + self.offset, last + self.offset)  # the token before a target predicts it
        ids = self.windows[index : index + 1]
        chunks = token_logprobs(self.model, ids, positions, chunk=self.chunk, separate_head=self.separate_head)
        while True:
            start = time.perf_counter()
            logprobs = next(chunks, None)
            if logprobs is not None and logprobs.is_cuda:
                torch.cuda.synchronize(logprobs.device)
            self.seconds += time.perf_counter() - start
            if logprobs is None:
                return
            yield logprobs


def _chunk_sums(p: Tensor, q: Tensor, targets: Tensor) -> Tensor:
    """Sums over n positions of the losses of p and q, KL(p ‖ q) and agreements: p, q (n, V), targets (n,) → (4,)."""
    kl = functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)  # (n,)
    agree = p.argmax(-1) == q.argmax(-1)  # (n,)
    terms = torch.stack([*(PERPLEXITY.terms(x, targets) for x in (p, q)), kl.double(), agree.double()])  # (4, n)
    return terms.sum(1).cpu()


def _align(windows_baseline: Tensor, windows_result: Tensor) -> tuple[int, int, int]:
    """Leading tokens of the baseline's and the result's windows, and the number of text tokens that both end with."""
    width = min(windows_baseline.shape[1], windows_result.shape[1])
    if not torch.equal(windows_baseline[:, -width:], windows_result[:, -width:]):
        raise UsageError(
            "the windows of baseline and result hold different text: cut both from the same text, and make windows "
            "with a BOS one token longer."
        )
    return windows_baseline.shape[1] - width, windows_result.shape[1] - width, width


def _require_same_vocabulary(baseline: PreTrainedModel, result: PreTrainedModel) -> None:
    ours, theirs = (model.config.get_text_config().vocab_size for model in (result, baseline))
    if ours != theirs:
        raise UsageError(
            f"the result has a vocabulary of {ours} tokens and the baseline one of {theirs}: give the model that the "
            "result was made from as baseline."
        )
