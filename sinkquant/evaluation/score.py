"""What a model thinks of every next token, without ever holding the float32 logits of a whole window."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.evaluation.metric import METRICS, PERPLEXITY

CHUNK_ELEMENTS = 2**24
"""Size of one chunk of log-probabilities (positions by vocabulary): 64 MiB in float32."""

RESULT = "the result"
"""What messages call a quantized model."""

Progress = Callable[[int, int], None]
"""Called as `progress(done, total)` after every window."""


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood (nats a token) over `tokens` scored tokens, and the `figures` of the metrics."""

    nll: float
    tokens: int
    figures: Mapping[str, float]

    @property
    def perplexity(self) -> float:
        return PERPLEXITY.value(self.nll)


def evaluate_one(
    model: PreTrainedModel,
    windows: Tensor,  # (N, T)
    *,
    scored: slice = slice(1, None),
    progress: Progress | None = None,
    who: str = "the model",
    metrics: Sequence[str] = (),
) -> Score:
    """Score one model on windows (N, T) of token ids, every window on its own.

    `scored` selects the positions whose tokens count; it starts at 1 or later, since nothing predicts the first token.
    `who` is what a message calls the model; `metrics` are measured beside the loss.
    Errors: `UsageError` for an empty or impossible `scored`, `SinkquantError` where the model's output is not finite.
    """
    first, last = scored_range(scored, windows.shape[1])
    separate, chunk = head_is_separate(model, windows), chunk_rows(model)
    measures = [PERPLEXITY, *(METRICS[name] for name in metrics)]
    totals = [0.0] * len(measures)
    for index, ids in enumerate(windows):
        chunks = token_logprobs(model, ids[None], range(first - 1, last - 1), chunk=chunk, separate_head=separate)
        sums = [0.0] * len(measures)
        for logprobs, targets in zip(chunks, ids[first:last].split(chunk), strict=True):
            sums = [s + float(m.terms(logprobs, targets).sum()) for s, m in zip(sums, measures, strict=True)]
        require_finite(sums[0], who, index)
        totals = [total + s for total, s in zip(totals, sums, strict=True)]
        if progress is not None:
            progress(index + 1, len(windows))
    tokens = len(windows) * (last - first)
    loss, *means = (total / tokens for total in totals)
    return Score(loss, tokens, {name: METRICS[name].value(mean) for name, mean in zip(metrics, means, strict=True)})


@torch.no_grad()
def token_logprobs(
    model: PreTrainedModel,
    ids: Tensor,  # (1, T)
    positions: range | None = None,
    *,
    chunk: int = 256,
    separate_head: bool | None = None,
) -> Iterator[Tensor]:
    """Log-probabilities of the token that follows each of `positions` (default: all T), in chunks (≤ chunk, V) float32.

    The body of the model runs once over the window. The head then runs chunk by chunk where `head_is_separate` allows
    it (pass its answer as `separate_head` to ask only once a model), else the logits of the window are kept in the
    model's own dtype and only the log-probabilities are made chunk by chunk.
    """
    ids = ids.to(model.device)
    if separate_head is None:
        separate_head = head_is_separate(model, ids)
    if separate_head:
        states = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]  # (T, d)
        head = model.get_output_embeddings()
    else:
        states = model(input_ids=ids, use_cache=False).logits[0]  # (T, V)
        head = torch.nn.Identity()
    if positions is not None:
        states = states[positions.start : positions.stop : positions.step]
    for rows in states.split(chunk):
        yield head(rows).float().log_softmax(-1)


@torch.no_grad()
def head_is_separate(model: PreTrainedModel, ids: Tensor, *, tokens: int = 16) -> bool:
    """Whether logits = output embedding(decoder(ids)) and nothing more, tried on the first `tokens` of `ids` (N, T).

    False for models that cap or scale their logits, or whose decoder or head cannot be called on its own. The tolerance
    is 1e-5 of the largest logit.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if decoder is model or head is None or not isinstance(decoder, PreTrainedModel):
        return False  # some families call a part of their head the decoder
    probe = ids[:1, :tokens].to(model.device)
    states = getattr(decoder(input_ids=probe, use_cache=False), "last_hidden_state", None)
    if states is None or getattr(head, "in_features", states.shape[-1]) != states.shape[-1]:
        return False  # something stands between them
    expected, found = model(input_ids=probe, use_cache=False).logits, head(states)
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def chunk_rows(model: PreTrainedModel) -> int:
    """Positions a chunk, so that a chunk of log-probabilities stays at 64 MiB whatever the vocabulary."""
    return max(1, CHUNK_ELEMENTS // model.config.get_text_config().vocab_size)


def scored_range(scored: slice, width: int) -> tuple[int, int]:
    """First and one-past-last position that `scored` selects from windows of `width` tokens."""
    first, last, step = scored.indices(width)
    if step != 1 or first < 1 or last <= first:
        raise UsageError(
            f"positions {scored.start}:{scored.stop}:{scored.step} of a window of {width} tokens cannot be scored: "
            "choose a run of positions that starts at 1 or later and is not empty."
        )
    return first, last


def require_finite(loss: float, who: str, window: int) -> None:
    """Raise SinkquantError for a loss that is not finite; `who`: RESULT, or a model that was not quantized."""
    if not math.isfinite(loss):
        remedy = (
            "quantize it again with more bits" if who == RESULT
            else "its weights or its config.json are damaged, or this text is beyond it; get a clean copy of the model"
        )  # fmt: skip
        raise SinkquantError(f"{who} gives logits that are not finite in window {window + 1} of the text: {remedy}.")
