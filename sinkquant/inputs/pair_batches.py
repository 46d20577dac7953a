"""Pairs as batches for an encoder-decoder: the source for the encoder, the target as the decoder is told it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.inputs.decoder import IGNORED, end_tokens, longest_target, start_token, written
from sinkquant.inputs.padding import pad_id, padded
from sinkquant.inputs.pairs import Pairs, Target
from sinkquant.inputs.sentences import tokenized

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNKNOWN = 0.2  # share of a target's tokens, beyond which the tokenizer is not the one that writes targets


def pair_batches(pairs: Pairs, tokenizer: Any, model: PreTrainedModel, size: int) -> Batches:
    """All pairs in batches of `size`: `input_ids`, `attention_mask`, and `decoder_input_ids` (N, T).

    Those are the labels (N, T), shifted right as the model itself does it; labels are -100 where there is padding, and
    `texts` holds the targets. Targets come through the tokenizer (`text_target`), or as token ids; pairs without get
    what the model writes (greedy).

    Raises UsageError where the tokenizer does not know what targets are written with.
    """
    items = []
    for start in range(0, len(pairs), size):
        sources = pairs.sources[start : start + size]
        tensors, real = tokenized(tokenizer, sources, longest_target(model))
        given = pairs.targets[start : start + size]
        rows = [_ids(target, tokenizer, model) for target in given] if given else _answers(model, tensors)
        labels, there = padded([row[: longest_target(model)] for row in rows], IGNORED)
        tensors["decoder_input_ids"] = _shifted(model, tokenizer, labels, there)
        texts = _texts(given, tokenizer, rows)
        items.append(Batch(tensors, {"input_ids": real, "decoder_input_ids": there}, labels, texts))
    said = pairs.said if pairs.targets else f"{pairs.said}; answered by the model"
    return Batches(tuple(items), pairs.source, said)


def _ids(target: Target, tokenizer: Any, model: Any) -> list[int]:
    """A target's labels: ids without the start token, with an end."""
    if isinstance(target, str):
        ids = list(tokenizer(text_target=target)["input_ids"])
        unknown = ids.count(tokenizer.unk_token_id) if tokenizer.unk_token_id is not None else 0
        if unknown > UNKNOWN * len(ids):
            raise UsageError(
                f"the tokenizer does not know what the target {target[:40]!r} is written with: give targets as lists "
                "of token ids, or sources alone, which the model answers."
            )
        return ids
    ids = list(target)
    return _ended(ids[1:] if ids[:1] == [start_token(model)] else ids, model)


def _ended(ids: list[int], model: Any) -> list[int]:
    """`ids` up to the first end token, which is put there if there is none."""
    ends = end_tokens(model)
    stop = next((place for place, one in enumerate(ids) if one in ends and place > 0), None)
    return [*ids, *ends[:1]] if stop is None else ids[: stop + 1]


def _answers(model: Any, tensors: dict[str, Tensor]) -> list[list[int]]:
    return [_ended(row, model) for row in written(model, tensors)]


def _shifted(model: Any, tokenizer: Any, labels: Tensor, real: Tensor) -> Tensor:
    """The decoder's inputs (N, T) for labels of which `real` (N, T) are no padding."""
    own = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    made: Tensor
    try:
        made = own(labels=labels)  # type: ignore[misc]
    except (AttributeError, TypeError, ValueError):  # none, or one that asks the configuration for what it lacks
        made = torch.cat([torch.full((len(labels), 1), start_token(model)), labels[:, :-1]], dim=1)
    return made.masked_fill(~real, pad_id(tokenizer))


def _texts(given: tuple[Target, ...], tokenizer: Any, rows: list[list[int]]) -> tuple[str, ...]:
    return tuple(
        target if isinstance(target, str) else str(tokenizer.decode(row, skip_special_tokens=True)).strip()
        for target, row in zip(given or [None] * len(rows), rows, strict=True)
    )
