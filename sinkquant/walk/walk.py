"""The only loop over blocks: stack after stack, one block and its inputs at a time.

Blocks run on stored inputs, so that the peak memory is one block and its activations. How the blocks of a stack are
called is recorded when the stacks before it are finished: a decoder gets what its encoder gives by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sinkquant.inputs.batches import TOKENS_PER_CALL, Batch, token_batch
from sinkquant.models.attention import own_attention
from sinkquant.models.media import MediaRows, media_rows
from sinkquant.models.roles import CONNECTOR, Block, Bridge, Roles, Stack
from sinkquant.models.stream import Arguments
from sinkquant.models.stubs import StopForward
from sinkquant.progress import Progress
from sinkquant.walk.place import Memory, Place
from sinkquant.walk.record import record_stack

MediaMasks = Mapping[str, list[Tensor]]


@dataclass
class BlockRun:
    """One block during a walk: its module, its roles, and how it is called for every batch."""

    index: int  # among the blocks of all stacks
    roles: Block
    module: nn.Module
    arguments: list[Arguments]  # without the stream
    inputs: list[Tensor]  # one (B, R, D) a batch
    stack: Stack
    real: Mapping[str, list[Tensor]]  # by the name of a stack that is under way or finished: its `masks`
    routed: dict[str, Tensor] = field(default_factory=dict)  # by a module of experts, as far as asked: tokens of each
    media: MediaMasks = field(default_factory=dict)  # by the name of a stack, where it has any
    gains: dict[str, float] = field(default_factory=dict)  # of two ranges over one, by a site's first linear
    told: MediaRows | None = None  # where linears look which rows of the batch under way are media

    @property
    def part(self) -> str:
        """What of the model the block is in."""
        return self.stack.name

    @property
    def masks(self) -> list[Tensor]:
        """One (B, R) bool a batch, True = a real row of the block's stack."""
        return self.real[self.stack.name]

    def masks_of(self, linear: str) -> list[Tensor]:
        """The masks of the input rows of one of the block's linears."""
        return self.real[self._stack_of(linear)]

    def media_of(self, linear: str) -> list[Tensor] | None:
        """Which input rows of one of the block's linears are media, (B, R) bool a batch; None: none are."""
        return self.media.get(self._stack_of(linear))

    def _stack_of(self, linear: str) -> str:
        site = next((site for site in self.roles.sites if linear in site.linears), None)
        return self.stack.name if site is None or site.stack is None else site.stack

    def inside(self, name: str) -> nn.Module:
        """A module of the block by its name in the model."""
        return self.module.get_submodule(name.removeprefix(f"{self.roles.name}."))

    def forward(self, batch: int, inputs: list[Tensor] | None = None) -> Tensor:
        """The block's output (B, R, D) for one batch; other inputs than the stored ones may be given."""
        with torch.no_grad():
            return self.call(batch, (self.inputs if inputs is None else inputs)[batch])

    def call(self, batch: int, hidden: Tensor) -> Tensor:
        """The block's output for other inputs (B, R, D) in the place of one batch's; gradients pass."""
        args, kwargs = self.roles.stream.call(self.arguments[batch], hidden)
        with telling(self.told, self.media.get(self.stack.name), batch):
            return self.roles.stream.given(self.module(*args, **kwargs))

    def batches(self) -> range:
        """Indices of the batches."""
        return range(len(self.inputs))


def telling(told: MediaRows | None, masks: list[Tensor] | None, batch: int) -> AbstractContextManager[None]:
    """A context in which the linears of a block that runs alone know which rows of one batch are media."""
    return nullcontext() if told is None or masks is None else told.given(masks[batch])


Visitor = Callable[[BlockRun], list[Tensor]]
Look = Callable[[int, tuple[Tensor, ...]], None]
Take = Callable[[Tensor, Tensor, Tensor], None]
"""Takes rows (n, width), their mask and which of them are media, (n,) bool each."""


@dataclass
class BridgeRun(BlockRun):
    """What stands in front of a stack, run for every batch up to the stack: a block with sites alone, whose inputs are
    made by `up_to`."""

    up_to: Callable[[int], None] = lambda batch: None

    @property
    def part(self) -> str:
        return CONNECTOR

    def forward(self, batch: int, inputs: list[Tensor] | None = None) -> Tensor:
        self.up_to(batch)
        return torch.empty(0)


class Walk:
    """Batches on their way through a model, block by block."""

    def __init__(
        self,
        model: nn.Module,
        roles: Roles,
        batches: Sequence[Batch] | Tensor,
        mask: Tensor | None = None,
        tokens: int = TOKENS_PER_CALL,
        place: Place | None = None,
    ) -> None:
        """`batches`, which are cut to at most `tokens` entries; or token ids (N, T) int64 with their `mask` (N, T)
        bool, True = real token (None: no padding). `place`: where blocks are; None: all in memory."""
        self.model, self.roles, self.place = model, roles, place if place is not None else Memory(model)
        items = [token_batch(batches, mask)] if isinstance(batches, Tensor) else batches
        self.batches = [self.place.batch(part) for item in items for part in item.cut(tokens)]
        self.inputs: list[Tensor] = []
        self._arguments: dict[str, list[Arguments]] = {}
        self._real: dict[str, list[Tensor]] = {}
        self._media: dict[str, list[Tensor]] = {}
        self._finished: dict[str, list[Tensor]] = {}

    def arguments(self, index: int) -> list[Arguments]:
        """How block `index`, of a stack under way or finished, is called, for every batch, without the stream."""
        return self._arguments[self.roles.blocks[index].name]

    def telling(self, index: int, batch: int) -> AbstractContextManager[None]:
        """A context for calls of block `index` by others with the arguments of one batch."""
        stack = self.roles.blocks[index].name.rpartition(".")[0]
        return telling(media_rows(self.model), self._media.get(stack), batch)

    @property
    def shares(self) -> bool:
        """Whether blocks hand things on beside the stream, in something that they are all given empty."""
        first = [args + tuple(kwargs.values()) for args, kwargs in self.arguments(0)]
        return any(isinstance(x, dict | list) and not x for values in first for x in values)

    def run(
        self,
        visit: Visitor,
        progress: Progress | None = None,
        start: int = 0,
        inputs: list[Tensor] | None = None,
        cross: Callable[[BridgeRun], None] | None = None,
    ) -> list[Tensor]:
        """Hand every block from `start` on to `visit`, whose result is the next block's input. Returns the last.

        `inputs`: what block `start` takes, where that is stored. Blocks in front of it that later stacks need run as
        they are. `cross` is shown what leads to a stack once those before it are finished.
        """
        index, total = 0, len(self.roles.blocks)
        with own_attention(self.model, self.roles.attends):
            for stack in self.roles.stacks:
                for bridge in self.roles.bridges:
                    if cross is not None and bridge.into == stack.name:
                        cross(self._bridge(bridge, stack))
                self.begin(stack)
                before = stack.blocks[: max(0, start - index)]
                again = stack is not self.roles.stacks[-1] and any(block.name in stack.gives for block in before)
                for block in stack.blocks:
                    if index == start and inputs is not None and block is not stack.blocks[0]:
                        self.inputs = inputs
                    if index >= start or again:
                        self._step(run_block if index < start else visit, index, block, stack)
                    if index >= start and progress is not None:
                        progress(index + 1, total)
                    index += 1
        return self.inputs

    def _step(self, visit: Visitor, index: int, block: Block, stack: Stack) -> None:
        with self.place.block(self.model.get_submodule(block.name)) as module:
            run = BlockRun(
                index, block, module, self._arguments[block.name], self.inputs, stack, self._real,
                media=self._media, told=media_rows(self.model),
            )  # fmt: skip
            self.inputs = visit(run)
        if block.name in stack.gives:
            self._finished[block.name] = self.inputs

    def _bridge(self, bridge: Bridge, stack: Stack) -> BridgeRun:
        """The way from finished stacks to `stack`."""
        before = self.roles.stacks[self.roles.stacks.index(stack) - 1]
        block = Block("", (), (), (), bridge.sites, None)

        def up_to(batch: int) -> None:
            made = {name: [outputs[batch]] for name, outputs in self._finished.items()}
            record_stack(self.model, self.roles, stack, [self.batches[batch]], made)

        inputs = [torch.empty(0)] * len(self.batches)
        return BridgeRun(-1, block, self.model, [], inputs, before, self._real, up_to=up_to)

    def begin(self, stack: Stack) -> None:
        """Record how the blocks of `stack` are called, for a model that runs through our attention function."""
        recording = record_stack(self.model, self.roles, stack, self.batches, self._finished)
        self.inputs = recording.inputs
        self._arguments |= recording.arguments
        pairs = zip(recording.inputs, self.batches, strict=True)
        self._real[stack.name] = [real_mask(hidden, batch, stack) for hidden, batch in pairs]
        if (media := self.roles.media) is not None and media.stack == stack.name:
            self._media[stack.name] = [media.find(batch.tensors[media.argument]) for batch in self.batches]


def real_mask(hidden: Tensor, batch: Batch, stack: Stack) -> Tensor:
    """Which rows of a stream are real, (B, R) bool: all of them, unless they are entries of a padded argument."""
    if stack.rows is None:
        shape = hidden.shape[:-1] if hidden.dim() < 3 else hidden.shape[:2]
        return torch.ones(shape if len(shape) == 2 else (1, *shape), dtype=torch.bool, device=hidden.device)
    real = batch.real.get(stack.rows)
    return torch.ones_like(batch.tensors[stack.rows], dtype=torch.bool) if real is None else real.bool()


def run_block(run: BlockRun) -> list[Tensor]:
    """The plain visitor: run the block on all batches."""
    return [run.forward(batch) for batch in run.batches()]


def real_rows(rows: Tensor, mask: Tensor) -> Tensor:
    """`mask` (B, R) for input rows (n, width) of a linear, (n,); all True where they are not the stack's rows."""
    return mask.reshape(-1) if len(rows) == mask.numel() else mask.new_ones(len(rows))


def media_rows_of(rows: Tensor, masks: list[Tensor] | None, batch: int) -> Tensor:
    """Which input rows (n, width) of a linear are media, (n,) bool; none where they are not the stack's rows."""
    if masks is None or len(rows) != masks[batch].numel():
        return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    return masks[batch].reshape(-1)


def capture_inputs(run: BlockRun, keep: Mapping[str, Take]) -> None:
    """Run the block up to the last of the named modules for every batch; each one's input rows are handed to what is
    named with it."""

    def look(name: str) -> Look:
        masks, media = run.masks_of(name), run.media_of(name)

        def see(batch: int, args: tuple[Tensor, ...]) -> None:
            rows = args[0].reshape(-1, args[0].shape[-1])
            keep[name](rows, real_rows(rows, masks[batch]), media_rows_of(rows, media, batch))

        return see

    look_in(run, {name: look(name) for name in keep})


def look_in(run: BlockRun, looks: Mapping[str, Look]) -> None:
    """Run the block up to the last of the named modules for every batch and show the batch's index and what each
    module is given."""
    for batch in run.batches():
        awaited = set(looks)

        def hook(name: str, batch: int = batch, awaited: set[str] = awaited) -> Callable[..., None]:
            def see(_: nn.Module, args: tuple[Tensor, ...]) -> None:
                looks[name](batch, args)
                awaited.discard(name)
                if not awaited:
                    raise StopForward

            return see

        handles = [run.inside(name).register_forward_pre_hook(hook(name)) for name in looks]
        try:
            run.forward(batch)
        except StopForward:
            pass
        finally:
            for handle in handles:
                handle.remove()


def run_and_show(run: BlockRun, show: Callable[[str, Tensor, Tensor], None]) -> list[Tensor]:
    """The block's outputs; on the way every site's input rows (rows, width) and their mask are shown, batch by
    batch, under the name of the site's first linear."""
    now = 0

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        masks = run.masks_of(name)

        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = args[0].reshape(-1, args[0].shape[-1])
            show(name, rows, real_rows(rows, masks[now]))

        return keep

    outputs, hooks = [], []
    for site in run.roles.sites:
        module = run.inside(site.source)
        hooks.append(module.register_forward_pre_hook(hook(site.linears[0])))
    try:
        for now in run.batches():
            outputs.append(run.forward(now))
    finally:
        for handle in hooks:
            handle.remove()
    return outputs
