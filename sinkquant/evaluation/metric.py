"""A metric: what one prediction scores, its unit, and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from sinkquant.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


class Metric(Protocol):
    """Scored prediction by prediction, so that the logits of a whole window are never held."""

    @property
    def unit(self) -> str: ...

    @property
    def better(self) -> Literal["lower", "higher"]: ...

    def terms(self, logprobs: Tensor, targets: Tensor) -> Tensor:
        """What each of n predictions (n, V) of `targets` (n,) scores, (n,)."""
        ...

    def value(self, mean: float) -> float:
        """The figure for the mean of all terms."""
        ...


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean loss in nats; infinity where a float cannot hold it."""

    unit: str = ""
    better: Literal["lower", "higher"] = "lower"

    def terms(self, logprobs: Tensor, targets: Tensor) -> Tensor:
        """-log p of each target, (n,) float64 nats."""
        return -logprobs.gather(1, targets.to(logprobs.device)[:, None])[:, 0].double()

    def value(self, mean: float) -> float:
        try:
            return math.exp(mean)
        except OverflowError:
            return math.inf


@dataclass(frozen=True)
class Accuracy:
    """The share (0 … 1) of tokens that the model puts first."""

    unit: str = ""
    better: Literal["lower", "higher"] = "higher"

    def terms(self, logprobs: Tensor, targets: Tensor) -> Tensor:
        """1 where the target is the first choice, (n,)."""
        return (logprobs.argmax(-1) == targets.to(logprobs.device)).double()

    def value(self, mean: float) -> float:
        return mean


METRICS: Registry[Metric] = Registry(
    "metric",
    {"perplexity": "sinkquant.evaluation.metric:PERPLEXITY", "accuracy": "sinkquant.evaluation.metric:ACCURACY"},
)
PERPLEXITY, ACCURACY = Perplexity(), Accuracy()
