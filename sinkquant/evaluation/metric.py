"""A metric: what one answer scores, its unit, and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from sinkquant.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

Better = Literal["lower", "higher"]
Against = Literal["labels", "baseline"]


class Metric(Protocol):
    """Scored place by place, so that the logits of a whole window are never held.

    `against`: what answers are held against, labels (n,) or what the float model answers at the same places; a metric
    of the second kind has no figure for the float model itself.
    """

    @property
    def unit(self) -> str: ...

    @property
    def better(self) -> Better: ...

    @property
    def against(self) -> Against: ...

    def terms(self, answers: Tensor, expected: Tensor) -> Tensor:
        """What each of n answers scores, (n,): log-probabilities (n, V), or features (n, D) of all samples at once."""
        ...

    def value(self, terms: Tensor) -> float:
        """The figure for all terms (n,) float64."""
        ...


@dataclass(frozen=True)
class _Mean:
    better: Better
    against: Against
    unit: str = ""

    def value(self, terms: Tensor) -> float:
        """Their mean."""
        return float(terms.mean())


class Perplexity(_Mean):
    """exp of the mean loss in nats; infinity where a float cannot hold it."""

    def terms(self, answers: Tensor, expected: Tensor) -> Tensor:
        """-log p of each target, (n,) float64 nats."""
        return -answers.gather(1, expected.to(answers.device)[:, None])[:, 0].double()

    def value(self, terms: Tensor) -> float:
        return exp(float(terms.mean()))


class Accuracy(_Mean):
    """The share (0 … 1) of places at which the label is the first choice."""

    def terms(self, answers: Tensor, expected: Tensor) -> Tensor:
        """1 where it is, (n,)."""
        return (answers.argmax(-1) == expected.to(answers.device)).double()


class Divergence(_Mean):
    """KL(baseline ‖ result) in nats a place."""

    def terms(self, answers: Tensor, expected: Tensor) -> Tensor:
        """(n, V) log-probabilities of both give (n,)."""
        expected = expected.to(answers.device)
        return (expected.exp() * (expected - answers)).sum(-1).double()


class Agreement(_Mean):
    """The share (0 … 1) of places at which both models put the same first."""

    def terms(self, answers: Tensor, expected: Tensor) -> Tensor:
        """1 where they do, (n,)."""
        return (answers.argmax(-1) == expected.to(answers.device).argmax(-1)).double()


class Cosine(_Mean):
    """Cosine of the angle between the features (n, D) of both models."""

    def terms(self, answers: Tensor, expected: Tensor) -> Tensor:
        """-1 … 1, (n,)."""
        from torch.nn.functional import cosine_similarity

        return cosine_similarity(answers.double(), expected.to(answers.device).double(), dim=-1)


class LowCosine(Cosine):
    """Its first percentile: what the worst samples get."""

    def value(self, terms: Tensor) -> float:
        return float(terms.quantile(0.01))


class Neighbours(_Mean):
    """The share (0 … 1) of samples whose nearest other sample, by cosine, is the same for both models."""

    def terms(self, answers: Tensor, expected: Tensor) -> Tensor:
        """1 where it is, (n,)."""
        return (nearest(answers) == nearest(expected.to(answers.device))).double()


def nearest(features: Tensor) -> Tensor:
    """The other row with the largest cosine, (n, D) gives (n,)."""
    from torch.nn.functional import normalize

    unit = normalize(features.float(), dim=-1)
    likeness = unit @ unit.T
    likeness.fill_diagonal_(-2)
    return likeness.argmax(-1)


def exp(loss: float) -> float:
    """The perplexity of a mean loss in nats."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "perplexity": "sinkquant.evaluation.metric:PERPLEXITY",
        "accuracy": "sinkquant.evaluation.metric:ACCURACY",
        "kl": "sinkquant.evaluation.metric:KL",
        "agreement": "sinkquant.evaluation.metric:AGREEMENT",
        "cosine": "sinkquant.evaluation.metric:COSINE",
        "low_cosine": "sinkquant.evaluation.metric:LOW_COSINE",
        "neighbours": "sinkquant.evaluation.metric:NEIGHBOURS",
    },
)
PERPLEXITY, ACCURACY = Perplexity("lower", "labels"), Accuracy("higher", "labels")
KL, AGREEMENT = Divergence("lower", "baseline", "nats"), Agreement("higher", "baseline")
COSINE, LOW_COSINE = Cosine("higher", "baseline"), LowCosine("higher", "baseline")
NEIGHBOURS = Neighbours("higher", "baseline")
