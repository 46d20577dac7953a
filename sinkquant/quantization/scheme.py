"""What is quantized how: frozen records that the recipe is turned into and the checkpoint stores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sinkquant.quantization.grid import Grid


@dataclass(frozen=True)
class WeightScheme:
    """Weights of one linear: one scale a channel, or one a group of `group_size` inputs.

    `words`: 8 bits are packed as well, as engines want weights whose inputs stay in float.
    """

    bits: int
    symmetric: bool = True
    group_size: int | None = None
    limit: int | None = None
    words: bool = False

    @property
    def grid(self) -> Grid:
        """The grid of the codes."""
        return Grid(self.bits, self.symmetric, self.limit)

    @property
    def packed(self) -> bool:
        """True if the codes are packed into int32 words, False if they are stored as int8."""
        return self.bits < 8 or self.words


@dataclass(frozen=True)
class ActivationScheme:
    """Inputs of one linear: one stored scale (`static`) or one a token (`dynamic`).

    `route` (static only): a token whose largest magnitude exceeds that many times the range stays in float. `media`
    (static only): rows that stand for images or sounds have a range of their own, the second of two.
    """

    bits: int
    mode: Literal["static", "dynamic"]
    symmetric: bool = True
    clip: float = 1.0  # dynamic only: share of a token's range that the grid spans
    route: float | None = None
    media: bool = False

    @property
    def grid(self) -> Grid:
        """The grid of the codes."""
        return Grid(self.bits, self.symmetric)

    @property
    def ranges(self) -> int:
        """How many are stored, where they are static."""
        return 2 if self.media else 1


@dataclass(frozen=True)
class LinearScheme:
    """Everything that changes in one linear.

    `rotate`: its input is rotated by a Hadamard matrix at run time (R4). `center`: a stored mean is then taken out of
    every channel, and its share of the output is part of the bias. `spikes`: that many channels of the input are taken
    out before all else and multiplied by their columns of the weight in float.
    """

    weight: WeightScheme | None
    activation: ActivationScheme | None = None
    rotate: bool = False
    center: bool = False
    spikes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; models of text know of no media."""
        made = asdict(self)
        if self.activation is not None and not self.activation.media:
            del made["activation"]["media"]
        return made

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LinearScheme:
        """The inverse of `to_dict`."""
        return cls(
            WeightScheme(**data["weight"]) if data["weight"] else None,
            ActivationScheme(**data["activation"]) if data["activation"] else None,
            data["rotate"],
            data.get("center", False),
            data.get("spikes", 0),
        )


@dataclass(frozen=True)
class KVScheme:
    """Keys and values of one attention. `rotate`: queries and keys are rotated after rotary embedding (R3).

    `recent`: that many newest tokens of each query stay in full precision. `balance`: keys go through a transform a
    head (and queries through its inverse) in R3's place, and the means of keys and values are taken out first.
    """

    bits: int = 16
    recent: int = 0
    rotate: bool = False
    clip: float = 1.0
    balance: bool = False


@dataclass(frozen=True)
class Transforms:
    """Which rotations a model gets; `fold_norms` and `stream` list stacks by name, `values` blocks, where possible."""

    fold_norms: tuple[str, ...]
    stream: tuple[str, ...]  # R1
    values: tuple[str, ...]  # R2
    keys: bool  # R3, online
    down: bool  # R4, online
    seed: int
    smooth: bool = False  # balance inputs and weights by their moments; the values' transform then takes R2's place
    inputs: bool = False  # rotate the inputs of all other linears online, in place of R1
    left: tuple[str, ...] = ()  # stacks that are left alone
    apart: tuple[str, ...] = ()  # stacks that have R1 and R2 where others are smoothed and rotated online
