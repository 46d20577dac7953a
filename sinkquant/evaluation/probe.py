"""What another runtime makes of the probe that a manifest holds, against what is stored there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from sinkquant.errors import SinkquantError

LIMIT = 0.02
"""Nats a token that the kernels of another machine or engine may cost: 2 % of the perplexity."""


@dataclass(frozen=True)
class Difference:
    """How far a measurement is from the stored one, in nats.

    `mean` and `largest`: of |Δ loss| over the tokens; `shift`: mean of Δ loss, and `error` its standard error.
    """

    identical: bool  # every logit, bit for bit
    mean: float
    largest: float
    shift: float
    error: float
    tokens: int
    engine: bool = False  # another engine, with kernels of its own

    @property
    def limit(self) -> float:
        """What can be rounding: of `mean`, or of `shift` for an engine.

        Its kernels move an input across a rounding boundary here and there, and low bits make much of it in single
        tokens, in both directions; a model that computes something else is worse on average.
        """
        return LIMIT + 2 * self.error if self.engine else LIMIT

    @property
    def acceptable(self) -> bool:
        """Whether the runtime computes the same model, as far as so few tokens can tell."""
        return self.identical or (abs(self.shift) if self.engine else self.mean) <= self.limit


def compare_probes(stored: Mapping[str, Any], measured: Mapping[str, Any]) -> Difference:
    """A measurement against the stored one of the same tokens; engines that keep their logits give no digest.

    Raises SinkquantError where either holds no losses, losses that are not finite, or another number of them.
    """
    losses = {"the manifest": stored["nll"], "the runtime": measured["nll"]}
    for who, values in losses.items():
        if len(values) < 2 or len(values) != len(stored["nll"]) or not all(map(math.isfinite, values)):
            raise SinkquantError(
                f"{who} has no finite loss for every token of the probe, so there is nothing to compare: "
                "quantize the model again."
            )
    changes = [b - a for a, b in zip(*losses.values(), strict=True)]
    sizes, error = [abs(change) for change in changes], stdev(changes) / math.sqrt(len(changes))
    digest = measured.get("logits")
    return Difference(
        digest == stored["logits"], fmean(sizes), max(sizes), fmean(changes), error, len(changes), digest is None
    )
