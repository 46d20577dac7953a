"""What a run is asked, and what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkquant.flow.estimate import Estimate
from sinkquant.flow.plan import Plan
from sinkquant.formats.facts import Experts
from sinkquant.progress import StageProgress
from sinkquant.sinks.report import SinkReport


@dataclass(frozen=True)
class Choice:
    """`recipe` is what was written, `reason` a sentence.

    The perplexities of the `candidate` that detection proposed and of its plain counterpart are on the same held-out
    part of the calibration text; None in a dry run, and where models are measured by something else.
    """

    recipe: str
    candidate: str
    reason: str
    candidate_perplexity: float | None = None
    plain_perplexity: float | None = None


@dataclass(frozen=True)
class Result:
    """What `quantize` did. Perplexities are on held-out calibration text, baseline and result on the same tokens.

    `choice`: which recipe was chosen and why, None where one was named. `metric`: the one that decides between recipes.
    `experts`: how many tokens of the calibration chose each, where it was asked for.
    """

    path: Path | None
    plan: Plan
    report: SinkReport | None
    figures: dict[str, Any]
    seconds: dict[str, float]
    peak_bytes: int
    choice: Choice | None = None
    metric: str = "perplexity"
    experts: tuple[Experts, ...] = ()


@dataclass(frozen=True)
class Options:
    """What a run needs apart from model and recipe; the meanings are those of `quantize`. `output` is a free place."""

    output: Path | None
    task: str | None = None
    calibration: str | None = None
    dry_run: bool = False
    progress: StageProgress | None = None
    planned: Callable[[Plan, Estimate], None] | None = None
