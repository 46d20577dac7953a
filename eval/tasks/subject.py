"""What is measured: a model with its data, the settings that it is quantized by, and what is wanted of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """A recipe with overrides. `goal`: whether the subject's goals are meant for it."""

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    goal: bool = False


BARE = (
    "sinks.prefix=none", "activations.spikes=0", "activations.symmetric=true", "activations.center=false",
    "transforms.fold_norms=false",
)  # fmt: skip
PLAIN = Setting("plain static W8A8", "w8a8-npu", BARE)
"""Weights rounded to nearest, inputs int8 with a range by least squared error, and nothing else."""
DYNAMIC = Setting("dynamic W8A8, a scale a token", "w8a8-npu", (*BARE, "activations.mode=dynamic"))
NPU = Setting("w8a8-npu", "w8a8-npu", goal=True)


@dataclass(frozen=True)
class Subject:
    """`calibration` and `data` are sources as `sinkquant.quantize` takes them; `samples` of `data` are compared.

    `about`: a sentence on the model and its data. `goals`: by metric, what is meant to be reached and what is hoped
    for. `more`: further figures (of the baseline or None, of the result) by name, from the folder of the result and the
    baseline. `write`: what both models write is compared as well.
    """

    name: str
    task: str
    model: Path
    calibration: str
    data: str
    samples: int
    about: str
    settings: tuple[Setting, ...] = (PLAIN, DYNAMIC, NPU)
    overrides: tuple[str, ...] = ()
    goals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    write: bool = False
    more: Callable[[Path, Path], Mapping[str, tuple[float | None, float]]] | None = None

    def missing(self) -> list[Path]:
        """What is not on this machine."""
        named = (self.model, *(Path(one) for one in (self.calibration, self.data) if "/" in one))
        return [path for path in named if not path.exists()]
