"""What every other folder knows about a model: which module does what, found by tracing, never by name.

All names are module paths relative to the model, as in `model.get_submodule(name)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from sinkquant.models.stream import Stream


class NormKind(StrEnum):
    """How a norm applies its weight; `RMS_OFFSET` multiplies by 1 + weight (Gemma)."""

    RMS = "rms"
    RMS_OFFSET = "rms_offset"
    LAYER = "layer"


class SiteKind(StrEnum):
    """Where a group of linears takes its input from."""

    ATTENTION_INPUT = "attention_input"
    ATTENTION_OUTPUT = "attention_output"
    MLP_INPUT = "mlp_input"
    DOWN_INPUT = "down_input"
    OTHER = "other"


@dataclass(frozen=True)
class Norm:
    """A norm and its style."""

    name: str
    kind: NormKind


@dataclass(frozen=True)
class Site:
    """Linears that share one input tensor, hence one activation range and one Hessian; in order of execution."""

    kind: SiteKind
    linears: tuple[str, ...]

    @property
    def label(self) -> str:
        """A short name for tables: the kind and the first linear."""
        return f"{self.kind.value}({self.linears[0]})"


@dataclass(frozen=True)
class Writer:
    """A linear that writes to the stream; `norm` is the sandwich norm between it and the stream, if any."""

    linear: str
    norm: Norm | None = None


@dataclass(frozen=True)
class Attention:
    """The attention of one block. `query`, `key`, `value`, `output` are linears; None where the trace found none.

    `plain`: nothing but the attention stands between `value` and `output`, so that values can change their basis.
    """

    module: str
    heads: int
    kv_heads: int
    head_dim: int
    query: str | None
    key: str | None
    value: str | None
    output: str | None
    query_norm: str | None = None
    key_norm: str | None = None
    window: int | None = None
    value_dim: int = 0
    plain: bool = False


@dataclass(frozen=True)
class Block:
    """One block of a stack."""

    name: str
    attention: Attention | None
    reads: tuple[tuple[Norm, tuple[str, ...]], ...]  # norm on the stream -> linears, its only readers
    writers: tuple[Writer, ...]
    sites: tuple[Site, ...]
    down: str | None
    up: str | None = None  # the linear whose output is a factor of the down projection's input
    unexplained: tuple[str, ...] = ()
    stream: Stream = field(default_factory=Stream)

    @property
    def linears(self) -> tuple[str, ...]:
        """All linears of the block that a site covers, in order of execution."""
        return tuple(name for site in self.sites for name in site.linears)

    @property
    def sandwiched(self) -> bool:
        """True if a norm stands between a writer and the stream."""
        return any(writer.norm is not None for writer in self.writers)


@dataclass(frozen=True)
class Roles:
    """A text decoder: embedding, blocks, final norm, head.

    `attends`: its attention goes through our function, which needs transformers' attention interface and arguments
    that we know. `rotates`: everything that reads or writes the stream is known, so that R1 is exact.
    `own_linears`: linears are of the architecture's own class, where stock loaders put no packed weights.
    """

    list_name: str
    width: int
    blocks: tuple[Block, ...]
    embedding: str
    final_norm: Norm | None
    head: str | None
    tied: bool
    rope: str  # "default", "llama3", "dynamic", ..., "none"
    unexplained: tuple[str, ...] = field(default=())
    attends: bool = True
    rotates: bool = False
    own_linears: bool = False

    @property
    def sandwiched(self) -> bool:
        """True if any block has sandwich norms: the stream then cannot be rotated by fusing."""
        return any(block.sandwiched for block in self.blocks)
