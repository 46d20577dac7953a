"""What a causal language model thinks of every next token, without ever holding the logits of a whole window."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

CHUNK_ELEMENTS = 2**24
"""Size of one chunk of log-probabilities (positions by vocabulary): 64 MiB in float32."""


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
