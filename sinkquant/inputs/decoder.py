"""What a decoder beside an encoder is told: its start token, the right answer, and what it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sinkquant.inputs.padding import padded

IGNORED = -100  # the label that losses pass over
LONGEST = 256  # tokens that a model writes, where it has positions for more


def teacher_forced(rows: Sequence[Sequence[int]], given: int, pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a decoder that is told the right answer sees: ids (N, T), which of them are real, and labels (N, T).

    Each of `rows` is all that it would write, from its start token to its end. The first `given` tokens are not its
    own, so no label asks for them.
    """
    ids, real = padded([row[:-1] for row in rows], pad)
    labels, _ = padded([[*[IGNORED] * (given - 1), *row[given:]] for row in rows], IGNORED)
    return ids, real, labels


def start_token(model: Any) -> int:
    """The token that a decoder begins with."""
    names = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    found = (getattr(place, name, None) for name in names for place in (model.generation_config, model.config))
    return next((one[0] if isinstance(one, list) else int(one) for one in found if one is not None), 0)


def end_tokens(model: Any) -> list[int]:
    """The tokens that end what a decoder writes, that which it should use first."""
    end = model.generation_config.eos_token_id
    end = model.config.eos_token_id if end is None else end
    return [] if end is None else [int(one) for one in (end if isinstance(end, list) else [end])]


def longest_target(model: Any) -> int | None:
    """Tokens that a decoder has positions for; None where there is no end."""
    names = ("max_target_positions", "max_position_embeddings")
    return next((int(places) for name in names if (places := getattr(model.config, name, None))), None)


def placed(value: Tensor, model: Any) -> Tensor:
    """`value` on the model's device, in its dtype if it is no count."""
    return value.to(model.device, model.dtype if value.is_floating_point() else None)


def written(model: Any, tensors: dict[str, Tensor], first: Sequence[int] = ()) -> list[list[int]]:
    """The ids that the model writes for encoder inputs when it always takes the likeliest token, a row each.

    `first`: what the decoder is given; it is no part of the rows, and nor is the start token.
    """
    inputs = {name: placed(value, model) for name, value in tensors.items()}
    most = min(longest_target(model) or LONGEST, LONGEST) - max(1, len(first))
    options: dict[str, Any] = {"do_sample": False, "num_beams": 1, "max_new_tokens": most}
    if len(first) > 1:
        rows = len(next(iter(tensors.values())))
        options["decoder_input_ids"] = torch.tensor([list(first)] * rows, device=model.device)
    with torch.no_grad():
        ids = model.generate(**inputs, **options)
    front = list(first) if len(first) > 1 else [start_token(model)]
    return [row[len(front) :] if row[: len(front)] == front else row for row in ids.tolist()]
