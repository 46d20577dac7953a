"""How the blocks of a stack are called: the model runs with recorders in the place of blocks.

The model's own forward prepares masks, positions and embeddings; without its blocks it costs almost nothing. Only where
blocks hand on more than the stream does the first one run, to make it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Block, Roles, Stack
from sinkquant.models.stream import Arguments
from sinkquant.models.stubs import Forward, StopForward, call_model, stand_ins


@dataclass(frozen=True)
class Recording:
    """What the blocks of one stack are given, batch by batch."""

    inputs: list[Tensor]  # of the first block
    arguments: dict[str, list[Arguments]]  # of every block by its name, without the stream


def record_stack(
    model: nn.Module, roles: Roles, stack: Stack, batches: Sequence[Batch], finished: Mapping[str, list[Tensor]]
) -> Recording:
    """Run the model up to the end of `stack`, without computing a block.

    `finished`: what blocks of earlier stacks give, by block name and batch, where something behind their stack reads
    it. The model has to run through its attention function of the walk.
    """
    recording = Recording([], {block.name: [] for block in stack.blocks})
    earlier = roles.stacks[: roles.stacks.index(stack)]

    def give_back(block: Block) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            made = finished.get(block.name)
            batch = len(recording.inputs)
            return block.stream.output(block.stream.taken((args, kwargs)) if made is None else made[batch])

        return forward

    def record(block: Block) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            hidden = block.stream.taken((args, kwargs))
            recording.arguments[block.name].append(block.stream.call((args, kwargs), None))
            if block is stack.blocks[0]:
                recording.inputs.append(hidden)
            if block is stack.blocks[-1]:
                raise StopForward  # what comes behind the blocks is not needed
            return block.stream.output(hidden, carried(block, (args, kwargs)))

        return forward

    def carried(block: Block, arguments: Arguments) -> dict[int, Any]:
        handed = block.stream.carried(arguments)
        if handed is not None:
            return handed
        module: Any = model.get_submodule(block.name)
        return block.stream.made(type(module).forward(module, *arguments[0], **arguments[1]))

    forwards = {block.name: give_back(block) for one in earlier for block in one.blocks}
    forwards |= {block.name: record(block) for block in stack.blocks}
    with stand_ins(model, forwards), torch.no_grad():
        for batch in batches:
            with suppress(StopForward):
                call_model(model, batch)
    return recording
