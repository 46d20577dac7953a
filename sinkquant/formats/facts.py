"""What a manifest states, as far as anything here reads it; further entries are kept as they are."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from textwrap import shorten
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

LONGEST = 255
"""Characters of a path inside a checkpoint."""


def _inside(name: str) -> str:
    """A path inside the checkpoint, as POSIX writes it."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = posix.is_absolute() or bool(windows.anchor) or {"..", "."} & set(windows.parts)
    if outside or "\0" in name or str(posix) != name or name == "." or len(name) > LONGEST:
        raise ValueError(f"{name!r} is no path inside the checkpoint")
    return name


Name = Annotated[str, AfterValidator(_inside)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Checksum = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="allow", protected_namespaces=(), allow_inf_nan=False)


class Limits(_Part):
    """Of the recipe's weights. `limit`: the largest 8-bit code, None for all."""

    limit: int | None = None


class Chosen(_Part):
    """The recipe. The version that wrote it knows the rest."""

    name: str
    target: str
    weights: Limits = Limits()


class Probe(_Part):
    """What `tasks.probe` measured: `nll` in nats of every token but the first, or whatever the task states."""

    ids: list[Token]
    nll: list[float]
    logits: str

    @model_validator(mode="after")
    def _paired(self) -> Probe:
        paired = not self.ids or len(self.ids) - len(self.nll) in (0, 1)  # nothing predicts the first token of a text
        if not paired or len(self.nll) < 2:
            raise ValueError(f"{len(self.ids)} ids do not have {len(self.nll)} losses")
        return self


class Prefix(_Part):
    """The prefix that detection chose."""

    ids: list[Token] = []
    tokens: list[str] = []


class Layer(_Part):
    """Ratios of a block, largest to median token."""

    residual_ratio: float
    down_ratio: float


class Report(_Part):
    """What detection found."""

    prefix: Prefix | None = None
    layers: list[Layer] = []


class Experts(_Part):
    """How many tokens of the calibration chose each expert of `module`; one that fewer than `wanted` chose was shown
    all tokens of the layer where a linear has more input channels than that (its largest number is `wanted`)."""

    module: str
    tokens: list[int] = Field(min_length=1)
    wanted: int

    @property
    def cold(self) -> int:
        """Experts that fewer chose."""
        return sum(count < self.wanted for count in self.tokens)


class Manifest(_Part):
    """`files`: every other file of the checkpoint, by its path inside, with its checksum."""

    format: Literal[1, 2]
    recipe: Chosen
    model: str
    task: str = "causal-lm"
    model_fingerprint: str | None = None
    prefix: list[Token]
    bos: bool
    report: Report | None = None
    notes: list[str]
    experts: list[Experts] = []
    rotations: dict[str, Any] | None = None
    figures: dict[str, Any]
    versions: dict[str, str]
    probe: Probe | None = None
    files: dict[Name, Checksum]

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if "config.json" not in self.files:
            raise ValueError("the list of files lacks config.json")
        return self


def complaint(error: ValidationError) -> str:
    """The first thing that is wrong, as a clause: where, and what."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    return shorten(f"{place}: {text}" if place else text, 200, placeholder=" …")
