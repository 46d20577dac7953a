"""A rounding method: which statistics of a layer's inputs it needs, and how it turns weights into codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from sinkquant.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from sinkquant.quantization.scheme import WeightScheme
    from sinkquant.quantization.weights import QuantizedWeight
    from sinkquant.walk.statistics import Statistic


class Settings(Protocol):
    """What a recipe says of rounding; see `Weights` in recipes/schema.py."""

    @property
    def clip(self) -> str: ...

    @property
    def damping(self) -> float: ...

    @property
    def act_order(self) -> bool: ...

    @property
    def sweeps(self) -> int: ...


class Method(Protocol):
    """`needs` makes the statistics, by name, of the rows that the layer will really see (rounded, without sinks).

    `passes`: about how many forward passes of the blocks its work costs, for the estimate.
    """

    needs: Mapping[str, Callable[[], Statistic]]
    passes: float

    def round(
        self, weight: Tensor, scheme: WeightScheme, values: Mapping[str, Tensor], settings: Settings
    ) -> QuantizedWeight:
        """Codes for `weight` (out, in) under `scheme`; `values` are those of `needs`, `settings` the recipe's."""
        ...


METHODS: Registry[Method] = Registry(
    "rounding method", {"rtn": "sinkquant.rounding.nearest:NEAREST", "gptq": "sinkquant.rounding.gptq:GPTQ"}
)
