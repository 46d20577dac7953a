"""What every other folder knows about a model: which module does what, found by tracing, never by name.

All names are module paths relative to the model, as in `model.get_submodule(name)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from sinkquant.models.media import Media
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
    """Linears that share one input tensor, hence one activation range and one Hessian; in order of execution.

    `stack`: the stack whose rows that input has, where it is not the block's own: keys and values of cross attention.
    `experts`: the module that hands the input to the experts among the linears, to each its own rows.
    """

    kind: SiteKind
    linears: tuple[str, ...]
    stack: str | None = None
    experts: str | None = None

    @property
    def source(self) -> str:
        """The module whose input is the site's, all rows of it."""
        return self.experts or self.linears[0]

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Linears that see the same rows: those of every expert, and those that are none's."""
        if self.experts is None:
            return (self.linears,)
        found: dict[str, list[str]] = {}
        for name in self.linears:
            inside = name.removeprefix(f"{self.experts}.")
            found.setdefault("" if inside == name else inside.partition(".")[0], []).append(name)
        return tuple(map(tuple, found.values()))

    @property
    def label(self) -> str:
        """A short name for tables: the kind and the first linear."""
        return f"{self.kind.value}({self.linears[0]})"


@dataclass(frozen=True)
class Writer:
    """A linear that writes to the stream; `norm` is the sandwich norm between it and the stream, if any, `scale` the
    module that multiplies every channel there by a number (layer scale)."""

    linear: str
    norm: Norm | None = None
    scale: str | None = None


class AttentionKind(StrEnum):
    """Where keys and values come from: the queries' own stack, or another one."""

    SELF = "self"
    CROSS = "cross"


@dataclass(frozen=True)
class Attention:
    """One attention of a block. `query`, `key`, `value`, `output` are linears; None where the trace found none.

    `plain`: nothing but the attention stands between `value` and `output`, so that values can change their basis.
    `causal`: a query sees no key behind its own position. `shifts`: `key` has no bias and needs none
    for that of its norm, as a constant in all keys adds the same to all scores of a query.
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
    kind: AttentionKind = AttentionKind.SELF
    causal: bool = True
    shifts: bool = False


@dataclass(frozen=True)
class Cached:
    """An attention that goes on with what layer `layer` of a cache returns, which it gets as `argument`."""

    module: str
    argument: str
    layer: int


@dataclass(frozen=True)
class Block:
    """One block of a stack; `attentions` in order of execution.

    `cached`: those whose keys and values alone are seen, where none goes through our attention function.
    """

    name: str
    attentions: tuple[Attention, ...]
    reads: tuple[tuple[Norm, tuple[str, ...]], ...]  # norm on the stream -> linears, its only readers
    writers: tuple[Writer, ...]
    sites: tuple[Site, ...]
    down: str | None
    up: str | None = None  # the linear whose output is a factor of the down projection's input
    unexplained: tuple[str, ...] = ()
    stream: Stream = field(default_factory=Stream)
    cached: tuple[Cached, ...] = ()

    @property
    def attention(self) -> Attention | None:
        """The self attention, if there is one."""
        return next((a for a in self.attentions if a.kind is AttentionKind.SELF), None)

    def attention_of(self, output: str) -> Attention | None:
        """The attention whose output projection is the linear `output`."""
        return next((attention for attention in self.attentions if attention.output == output), None)

    @property
    def linears(self) -> tuple[str, ...]:
        """All linears of the block that a site covers, in order of execution."""
        return tuple(name for site in self.sites for name in site.linears)

    @property
    def sandwiched(self) -> bool:
        """True if a norm stands between a writer and the stream."""
        return any(writer.norm is not None for writer in self.writers)


@dataclass(frozen=True)
class Stack:
    """A run of blocks on one residual stream: a text decoder, an encoder, a vision tower.

    `name`: path of the list that holds the blocks. `embeddings`: modules and parameters that write the stream in front
    of the first block, as far as found; `closed`: nothing else does. `final_readers`: the only readers of the final
    norm, if they are linears (head, keys and values of cross attention). `causal`: no row sees a later one. `rows`: the
    model's argument whose entries the stream's rows are ("input_ids", "decoder_input_ids"); None: rows of its own, such
    as image patches, all real. `reads`: names of the stacks whose output the blocks take beside the stream. `gives`:
    names of the blocks whose output something behind the stack reads, which need not be the last block. `rotates`:
    everything that reads or writes the stream is known, so that R1 is exact.
    """

    name: str
    width: int
    blocks: tuple[Block, ...]
    embeddings: tuple[str, ...] = ()
    closed: bool = False
    final_norm: Norm | None = None
    final_readers: tuple[str, ...] = ()
    causal: bool = True
    rows: str | None = "input_ids"
    reads: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    rotates: bool = False

    @property
    def sandwiched(self) -> bool:
        """True if any block has sandwich norms: the stream then cannot be rotated by fusing."""
        return any(block.sandwiched for block in self.blocks)

    @property
    def reads_stream(self) -> tuple[tuple[Norm, tuple[str, ...]], ...]:
        """Every norm on the stream and its readers, the final one last."""
        final = ((self.final_norm, self.final_readers),) if self.final_norm is not None and self.final_readers else ()
        return (*(read for block in self.blocks for read in block.reads), *final)

    @property
    def subtracts_mean(self) -> bool:
        """Whether a layer norm reads the stream, which only a rotation that keeps the mean goes through."""
        return any(norm.kind is NormKind.LAYER for norm, _ in self.reads_stream)


CONNECTOR = "connector"
"""What the linears of all bridges are called where parts of a model have names."""


@dataclass(frozen=True)
class Bridge:
    """Linears outside of the stacks that make rows of the stack `into` of what earlier stacks give, in order."""

    into: str
    sites: tuple[Site, ...]


@dataclass(frozen=True)
class Positions:
    """A table of one vector a position: the parameter `table` (first + places, width), whose row `first` is that of the
    first token of a text; no text has more tokens than `places`. `counted`: the model takes position ids, of which 0 is
    the first token's."""

    table: str
    first: int
    places: int
    counted: bool = True


@dataclass(frozen=True)
class Roles:
    """A model: its stacks in order of execution, token embedding, head. What is said of *the* width, list and final
    norm is true of the last stack, which the head reads.

    `attends`: its attention goes through our function, which needs transformers' attention interface and arguments
    that we know. `unseen`: where it does not, why keys and values are not seen where they are cached either.
    `own_linears`: linears are of the architecture's own class, where stock loaders put no packed weights.
    `positions`: the table of positions, of a model of one stack without rotary ones. `media`: which rows of text stand
    for images or sounds. `bridges`: what stands between stacks. `counts`: rotary positions are those of
    the tokens in order, and no affair of the model's own.
    """

    stacks: tuple[Stack, ...]
    embedding: str | None
    head: str | None
    tied: bool
    rope: str  # "default", "llama3", "dynamic", ..., "none"
    unexplained: tuple[str, ...] = field(default=())
    attends: bool = True
    unseen: str | None = None
    own_linears: bool = False
    positions: Positions | None = None
    media: Media | None = None
    bridges: tuple[Bridge, ...] = ()
    counts: bool = True

    @property
    def bound(self) -> bool:
        """Whether the head has the weight of several embeddings: it cannot change unless they all do."""
        return self.tied and self.embedding is None

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks of all stacks, in order of execution."""
        return tuple(block for stack in self.stacks for block in stack.blocks)

    @property
    def linears(self) -> Iterator[tuple[str, Site]]:
        """Every site by the part that it is in: a stack's name, or CONNECTOR."""
        for stack in self.stacks:
            yield from ((stack.name, site) for block in stack.blocks for site in block.sites)
        yield from ((CONNECTOR, site) for bridge in self.bridges for site in bridge.sites)

    @property
    def text(self) -> Stack | None:
        """The stack that text is in, in front of which a prefix can stand: the last one, if no row of it sees a later
        one and it takes nothing of the others but rows: those are towers."""
        last, others = self.stacks[-1], self.stacks[:-1]
        alone = all(stack.rows is None for stack in others) and not last.reads
        return last if last.causal and alone and (last.rows is not None or not others) else None

    @property
    def towers(self) -> tuple[Stack, ...]:
        """Stacks in front of the last whose rows are no tokens: patches of images, frames of sound."""
        return tuple(stack for stack in self.stacks[:-1] if stack.rows is None)

    @property
    def list_name(self) -> str:
        """The path of the last stack."""
        return self.stacks[-1].name

    @property
    def width(self) -> int:
        """Channels of the last stack's stream."""
        return self.stacks[-1].width

    @property
    def final_norm(self) -> Norm | None:
        """The norm behind the last stack."""
        return self.stacks[-1].final_norm

    @property
    def shifting(self) -> frozenset[str]:
        """Linears that need no bias for that of their norm: those of keys without positions."""
        found = (attention for block in self.blocks for attention in block.attentions if attention.shifts)
        return frozenset(attention.key for attention in found if attention.key is not None)

    def each_block(self, change: Callable[[Block], Block]) -> Roles:
        """The same with every block changed."""
        stacks = (replace(stack, blocks=tuple(map(change, stack.blocks))) for stack in self.stacks)
        return replace(self, stacks=tuple(stacks))
