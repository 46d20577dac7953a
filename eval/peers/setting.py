"""What is asked of a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEFAULT, BEST = "documented default", "best documented recipe"
ADAPTED = "documented recipe, sizes changed to fit the model"
OPTION = "documented option"


@dataclass(frozen=True)
class Setting:
    """A row of the table.

    `group`: rows of one group are compared (bits of weights, activations, keys and values); `source`: where the peer's
    documentation has it; `options`: makes what the peer wants, called in its environment; `in_memory`: score the model
    before it is saved too, where what is written may not be what was quantized.
    """

    group: str
    name: str
    source: str
    options: Callable[[], Any]
    in_memory: bool = False
