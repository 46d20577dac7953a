"""A model at work: what the stages of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sinkquant.inputs.batches import Batches
from sinkquant.models.fingerprint import fingerprint
from sinkquant.models.roles import Roles
from sinkquant.models.source import Source
from sinkquant.tasks.task import Data, Task

DEFAULT_THRESHOLD = 64.0  # without a report: the ratio that PrefixQuant (arXiv 2410.05265) calls an outlier token


@dataclass(eq=False)
class Session:
    """`model` is changed stage by stage; everything else stays.

    `data` is without BOS; `begin` is the token that stands in front of every text now: BOS, unless the model has it as
    its prefix. `threshold`: rows whose largest magnitude exceeds that many times the median row's are those of sinks.
    `source` is None for a model that came in memory, `label` what it is called. `attention`: the implementations that
    the model came with, part by part.
    """

    model: Any
    roles: Roles
    task: Task
    processor: Any
    label: str
    source: Source | None
    data: Data
    attention: dict[str, str]
    begin: int | None = None
    threshold: float = DEFAULT_THRESHOLD

    def release(self) -> None:
        """Let go of the model, whose memory is wanted; nothing else is lost."""
        self.model = None

    @cached_property
    def fingerprint(self) -> str:
        """That of the model as it came; every byte of its files is read for it, once."""
        assert self.source is not None
        return fingerprint(self.source)

    @property
    def calibration(self) -> Batches:
        """What the model is calibrated on, as it is fed."""
        return self.task.begun(self.data.calibration, self.begin)

    @property
    def held_out(self) -> Batches:
        """What the result is measured on, as it is fed."""
        return self.task.begun(self.data.held_out, self.begin)
