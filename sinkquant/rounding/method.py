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


def require_form(made: QuantizedWeight, weight: Tensor, scheme: WeightScheme) -> None:
    """Raise ValueError, with what was expected, where codes or scales of `weight` (out, in) have another form."""
    out, width = weight.shape
    groups = width // (scheme.group_size or width)
    if (str(made.codes.dtype), tuple(made.codes.shape)) != ("torch.int8", (out, width)):
        raise ValueError(
            f"the rounding method gave codes {tuple(made.codes.shape)} in {made.codes.dtype}, where codes "
            f"{(out, width)} in torch.int8 are wanted"
        )
    if tuple(made.scale.shape) != (out, groups):
        size = f"groups of {scheme.group_size} inputs" if scheme.group_size else "one group of all inputs"
        raise ValueError(
            f"the rounding method gave scales {tuple(made.scale.shape)}, where {(out, groups)} are wanted, for {size}"
        )


METHODS: Registry[Method] = Registry(
    "rounding method", {"rtn": "sinkquant.rounding.nearest:NEAREST", "gptq": "sinkquant.rounding.gptq:GPTQ"}
)
