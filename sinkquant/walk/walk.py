"""The only loop over blocks: one block and its inputs at a time.

The model's own forward prepares masks, positions and embeddings; while its blocks are replaced by recorders it costs
almost nothing and tells how each block is called. The walk then runs block after block on stored inputs, so that the
peak memory is one block and its activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.models.attention import own_attention
from sinkquant.models.roles import Block, Roles
from sinkquant.models.stream import Arguments, Stream

TOKENS_PER_BATCH = 2048  # large enough for full matrix products, small enough for the feed-forward's activations


class _Recorder(nn.Module):
    """Stands in for a block: passes the stream on and keeps the other arguments."""

    def __init__(self, block: nn.Module, stream: Stream) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not registered: the block must not be seen as a part of the recorder
        self.stream, self.first, self.last = stream, False, False
        self.calls: list[Arguments] = []
        self.inputs: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = self.stream.taken((args, kwargs))
        self.calls.append(self.stream.call((args, kwargs), None))
        if self.first:
            self.inputs.append(hidden)
        if self.last:
            raise StopForward  # what comes behind the blocks is not needed
        return self.stream.output(hidden)


class StopForward(Exception):
    """Raised once there is what is wanted, so that the rest of a model or of a block is not computed."""


@contextmanager
def _recorders(model: nn.Module, roles: Roles) -> Iterator[list[_Recorder]]:
    blocks = model.get_submodule(roles.list_name)
    assert isinstance(blocks, nn.ModuleList)
    originals = list(blocks)
    streams = [block.stream for block in roles.blocks]
    recorders = [_Recorder(block, stream) for block, stream in zip(originals, streams, strict=True)]
    recorders[0].first = recorders[-1].last = True
    try:
        for index, recorder in enumerate(recorders):
            blocks[index] = recorder
        yield recorders
    finally:
        for index, block in enumerate(originals):
            blocks[index] = block


@dataclass
class BlockRun:
    """One block during a walk: its module, its roles, and how it is called for every batch."""

    index: int
    roles: Block
    module: nn.Module
    arguments: list[Arguments]  # without the stream
    inputs: list[Tensor]  # one (B, T, D) a batch
    masks: list[Tensor]  # one (B, T) bool a batch, True = real token

    def forward(self, batch: int, inputs: list[Tensor] | None = None) -> Tensor:
        """The block's output (B, T, D) for one batch; other inputs than the stored ones may be given."""
        with torch.no_grad():
            return self.call(batch, (self.inputs if inputs is None else inputs)[batch])

    def call(self, batch: int, hidden: Tensor) -> Tensor:
        """The block's output for other inputs (B, T, D) in the place of one batch's; gradients pass."""
        args, kwargs = self.roles.stream.call(self.arguments[batch], hidden)
        return self.roles.stream.given(self.module(*args, **kwargs))

    def batches(self) -> range:
        """Indices of the batches."""
        return range(len(self.inputs))


Visitor = Callable[[BlockRun], list[Tensor]]
Progress = Callable[[int, int], None]


class Walk:
    """Token batches on their way through a model, block by block."""

    def __init__(
        self,
        model: nn.Module,
        roles: Roles,
        ids: Tensor,
        mask: Tensor | None = None,
        tokens: int = TOKENS_PER_BATCH,
    ) -> None:
        """`ids` (N, T) int64; `mask` (N, T) bool, True = real token (None: no padding); `tokens` a batch, at most."""
        self.model, self.roles = model, roles
        rows = max(1, tokens // ids.shape[1])
        self.ids = list(ids.split(rows))
        padded = mask is not None and not bool(mask.all())
        self.masks = (
            [torch.ones_like(i, dtype=torch.bool) for i in self.ids] if mask is None else list(mask.split(rows))
        )
        with _recorders(model, roles) as recorders, own_attention(model, roles.attends), torch.no_grad():
            for batch, real in zip(self.ids, self.masks, strict=True):
                arguments = {"attention_mask": real.long()} if padded else {}
                with suppress(StopForward):
                    model(input_ids=batch, use_cache=False, **arguments)
        self.inputs = recorders[0].inputs
        self._arguments = [recorder.calls for recorder in recorders]

    def arguments(self, index: int) -> list[Arguments]:
        """How block `index` is called, for every batch, without the stream."""
        return self._arguments[index]

    @property
    def shares(self) -> bool:
        """Whether blocks hand things on beside the stream, in something that they are all given empty."""
        first = [args + tuple(kwargs.values()) for args, kwargs in self._arguments[0]]
        return any(isinstance(x, dict | list) and not x for values in first for x in values)

    def run(self, visit: Visitor, progress: Progress | None = None, start: int = 0) -> list[Tensor]:
        """Hand every block from `start` on to `visit`, whose result is the next block's input. Returns the last."""
        with own_attention(self.model, self.roles.attends):
            for index in range(start, len(self.roles.blocks)):
                roles = self.roles.blocks[index]
                module = self.model.get_submodule(roles.name)
                self.inputs = visit(BlockRun(index, roles, module, self._arguments[index], self.inputs, self.masks))
                if progress is not None:
                    progress(index + 1, len(self.roles.blocks))
        return self.inputs


def run_block(run: BlockRun) -> list[Tensor]:
    """The plain visitor: run the block on all batches."""
    return [run.forward(batch) for batch in run.batches()]


def real_rows(rows: Tensor, mask: Tensor) -> Tensor:
    """`mask` (B, T) for input rows (n, width) of a linear, (n,); all True where they are not the text's tokens."""
    return mask.reshape(-1) if len(rows) == mask.numel() else mask.new_ones(len(rows))


def capture_inputs(run: BlockRun, linear: str, keep: Callable[[Tensor, Tensor], None]) -> None:
    """Run the block up to `linear` for every batch and hand its input rows (tokens, width) and their mask over."""
    module = run.module.get_submodule(linear.removeprefix(run.roles.name + "."))
    for batch in run.batches():

        def hook(_: nn.Module, args: tuple[Tensor, ...], batch: int = batch) -> None:
            rows = args[0].reshape(-1, args[0].shape[-1])
            keep(rows, real_rows(rows, run.masks[batch]))
            raise StopForward

        handle = module.register_forward_pre_hook(hook)
        try:
            run.forward(batch)
        except StopForward:
            pass
        finally:
            handle.remove()


def run_and_show(run: BlockRun, show: Callable[[str, Tensor, Tensor], None]) -> list[Tensor]:
    """The block's outputs; on the way every site's input rows (tokens, width) and their mask are shown, batch by
    batch, under the name of the site's first linear."""
    now = 0

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            rows = args[0].reshape(-1, args[0].shape[-1])
            show(name, rows, real_rows(rows, run.masks[now]))

        return keep

    outputs, hooks = [], []
    for site in run.roles.sites:
        module = run.module.get_submodule(site.linears[0].removeprefix(run.roles.name + "."))
        hooks.append(module.register_forward_pre_hook(hook(site.linears[0])))
    try:
        for now in run.batches():
            outputs.append(run.forward(now))
    finally:
        for handle in hooks:
            handle.remove()
    return outputs
