"""Position ids that start at 0 with the text, also where the batch is padded on the left.

Without a prefix only differences of rotary positions matter, so models number padded rows from the padding on. The
prefix stands at fixed positions −P … −1; a row's text must therefore begin at 0 for every row to see the same distance.
A table of positions begins where the text does.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn


def text_positions(mask: Tensor, length: int) -> Tensor:
    """Position ids (B, length) of the newest `length` tokens for a padding mask (B, past + length)."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)[:, -length:]


def _fill(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    bound = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    mask, tokens = bound.get("attention_mask"), bound.get("input_ids")
    if tokens is None:
        tokens = bound.get("inputs_embeds")
    if bound.get("position_ids") is not None or not isinstance(mask, Tensor) or mask.dim() != 2 or tokens is None:
        return args, kwargs
    return args, {**kwargs, "position_ids": text_positions(mask, tokens.shape[1])}


def install_positions(model: nn.Module) -> None:
    """Fill in position ids from a 2-D attention mask where the caller gives none."""
    if not getattr(model, "_sinkquant_positions", None):
        object.__setattr__(model, "_sinkquant_positions", model.register_forward_pre_hook(_fill, with_kwargs=True))
