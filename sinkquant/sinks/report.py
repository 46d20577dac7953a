"""What detection finds in a model: frozen, serialisable, the source of facts for every later stage (no torch here)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, field_serializer, field_validator

ANY_TOKEN = "any token"
"""What a sink is called that whatever token stands at its position becomes."""


class Verdict(StrEnum):
    """What makes a sink: its position, its content, a channel that is large on every token, or there is none."""

    POSITIONAL = "positional"
    CONTENT = "content"
    CHANNEL = "channel"
    NONE = "none"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Origin(_Frozen):
    """The weight that writes a sink: row and column of the down projection of block `layer`, and its value; `expert`:
    of which expert's, None where every token goes through it."""

    layer: int
    row: int
    column: int
    value: float
    expert: int | None = None


class SuperExpert(_Frozen):
    """An expert whose down projection writes a sink's spike: expert number `expert` of `module`, in block `layer`.

    `row` and `column` of its weight of `value` write most of it; `share` is what the expert adds of the largest
    magnitude that the sink token has in any block, `score` what the router weighs it by, both medians over the
    `frequency` (0…1) of the sink tokens that choose it.
    """

    module: str
    layer: int
    expert: int
    row: int
    column: int
    value: float
    share: float
    score: float
    frequency: float


class Sink(_Frozen):
    """One kind of sink token; `position` 0 and no `token_id` means whatever token stands first.

    Ratios are token maximum over the median token maximum in the block where they are largest; `received_attention` is
    the mean over heads in the block where it is largest; `frequency` the share of the token's occurrences that are
    sinks. `emergence` and `drop` are None where the residual stream does not stand out. `stack`: where it is, in models
    of several. `patch`: row and column among the patches of the image. `channel`: that of the stream's peak;
    `same_channel`: of a patch among text, whether a sink of the text peaks there too.
    """

    token: str
    token_id: int | None
    position: int | None
    emergence: int | None
    drop: int | None
    residual_ratio: float
    down_ratio: float
    received_attention: float
    heads_above: int
    heads: int
    frequency: float
    origin: Origin | None
    stack: str | None = None
    patch: tuple[int, int] | None = None
    channel: int | None = None
    same_channel: bool | None = None


class Channel(_Frozen):
    """A channel of the residual stream that holds outliers, either on sink tokens only or on every token.

    `ratio` is the largest, over blocks, of its magnitude on a sink over the median token's maximum, or, with
    `every_token`, of its magnitude over the median channel's that nine of ten tokens exceed.
    """

    index: int
    blocks: tuple[int, ...]
    ratio: float
    every_token: bool


class Trial(_Frozen):
    """One prefix put in front of held-out text: the sinks that remain in the text, and its loss in nats a token."""

    ids: tuple[int, ...]
    sinks_left: int
    loss: float | None


class PrefixChoice(_Frozen):
    """The proposed prefix and how it was found. `left` sinks remain in the held-out text; `absorbed` means none."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    reason: str
    absorbed: bool
    left: int
    trials: tuple[Trial, ...]
    loss_without: float | None
    loss_with: float | None


class ResidualSink(_Frozen):
    """A token that still stands out in `blocks` with the prefix in place, up to `ratio` and `count` times."""

    token: str
    token_id: int
    blocks: tuple[int, ...]
    ratio: float
    count: int


class LayerStats(_Frozen):
    """One block: medians over the plain sequences. Attention and norms are those of each sequence's strongest sink.

    `sink_logit_mass` is the mean share of attention that goes to the model's own sink logits, 0 where it has none.
    """

    index: int
    residual_ratio: float
    residual_max: float
    residual_channel: int
    down_ratio: float
    down_max: float
    received_attention: float
    heads_above: int
    heads: int
    key_norm_ratio: float
    value_norm_ratio: float
    sink_logit_mass: float = 0.0


class Waste(_Frozen):
    """What one static scale would cost the input of a linear, see `signals/range_waste.py`; `bits`: of the median
    row."""

    module: str
    underflow: float
    dispersion: float
    bits: float


class SinkReport(_Frozen):
    """Everything that detection found. `threshold` is τ for the residual ratio, `sweep` the sink count for every τ;
    `waste` has the inputs that a static scale costs most, worst first; `super_experts` those that write most of the
    spikes first."""

    model: str
    verdict: tuple[Verdict, ...]
    sinks: tuple[Sink, ...]
    channels: tuple[Channel, ...]
    prefix: PrefixChoice
    residual: tuple[ResidualSink, ...]
    layers: tuple[LayerStats, ...]
    threshold: float
    sweep: dict[float, int]
    bos: str
    tokens: int
    seconds: float
    calibration: str
    task: str = "causal-lm"
    waste: tuple[Waste, ...] = ()
    super_experts: tuple[SuperExpert, ...] = ()

    @field_validator("verdict", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_serializer("verdict")
    def _plain(self, value: tuple[Verdict, ...]) -> str | list[str]:
        return value[0].value if len(value) == 1 else [v.value for v in value]

    def to_json(self, indent: int | None = 2) -> str:
        """The report as one JSON object; `verdict` is a string, or a list where it is a mixture."""
        return self.model_dump_json(indent=indent)

    @classmethod
    def from_json(cls, text: str) -> SinkReport:
        """The report that `to_json` wrote. Raises pydantic.ValidationError for anything else."""
        return cls.model_validate_json(text)
