"""Rounding to nearest (RTN): every weight by itself, whatever the inputs are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import QuantizedWeight, round_to_nearest
from sinkquant.rounding.method import Settings
from sinkquant.walk.statistics import Statistic


@dataclass(frozen=True)
class Nearest:
    """See `Method`; the range is the largest magnitude, or the share of it with the least squared error."""

    needs: Mapping[str, Callable[[], Statistic]] = field(default_factory=dict)
    passes: float = 1.0

    def round(
        self, weight: Tensor, scheme: WeightScheme, values: Mapping[str, Tensor], settings: Settings
    ) -> QuantizedWeight:
        """Codes of `weight` (out, in)."""
        return round_to_nearest(weight, scheme, search=settings.clip == "mse")


NEAREST = Nearest()
