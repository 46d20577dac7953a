"""A table of positions behind a prefix: the text's row t is what row t + P was.

Until the prefix is known for good, its rows stand at the end of the table, where they can be found again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from sinkquant.models.roles import Positions

LENGTH = "max_position_embeddings"  # what all configurations call it, some by a name of their own


def turn(model: nn.Module, positions: Positions | None, steps: int) -> None:
    """Position t gets the vector of position t + `steps`, counted around; nothing for a model without a table."""
    if positions is not None:
        table = model.get_parameter(positions.table).data[positions.first :]
        table.copy_(table.roll(-steps, 0))


@contextmanager
def turned(model: nn.Module, positions: Positions | None, steps: int) -> Iterator[None]:
    """`turn` for the time of the context."""
    turn(model, positions, steps)
    try:
        yield
    finally:
        turn(model, positions, -steps)


def refuse_cut(model: Any, positions: Positions, count: int) -> str | None:
    """Why the table cannot be `count` positions shorter in a checkpoint, or None."""
    ignored = getattr(model, "_keys_to_ignore_on_save", None) or ()
    if any(re.search(pattern, positions.table) for pattern in ignored):
        return "the table of positions is not stored but computed, so it cannot begin behind the prefix"
    rows = positions.first + positions.places - count
    config = deepcopy(model.config)
    _shorten(config, count)
    with torch.device("meta"):
        made = type(model)(config).get_parameter(positions.table)
    return None if len(made) == rows else f"the table of positions does not have as many rows as {LENGTH} says"


def cut(model: Any, positions: Positions | None, count: int) -> None:
    """Drop the last `count` positions, in the table and in the configuration; nothing without a table."""
    if positions is None or not count:
        return
    name, _, leaf = positions.table.rpartition(".")
    module, table = model.get_submodule(name), model.get_parameter(positions.table)
    setattr(module, leaf, nn.Parameter(table.detach()[:-count].clone(), requires_grad=table.requires_grad))
    if isinstance(module, nn.Embedding):
        module.num_embeddings -= count
    _shorten(model.config, count)


def _shorten(config: Any, count: int) -> None:
    text = config.get_text_config()
    setattr(text, LENGTH, getattr(text, LENGTH, 0) - count)
