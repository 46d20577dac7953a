"""The walk asks its place for every batch and every block, and has one block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import LlamaForCausalLM

from sinkquant.inputs.batches import Batch, token_batch
from sinkquant.models.trace import trace_roles
from sinkquant.walk.place import Memory
from sinkquant.walk.walk import Walk, run_block


class Elsewhere(Memory):
    """Weights are nowhere (NaN) unless they have been asked for."""

    def __init__(self, model: nn.Module, blocks: list[nn.Module]) -> None:
        super().__init__(model)
        self.batches, self.order = 0, list[nn.Module]()
        self.away = {block: {n: p.detach().clone() for n, p in block.named_parameters()} for block in blocks}
        for block in blocks:
            self._empty(block)

    def batch(self, batch: Batch) -> Batch:
        self.batches += 1
        return super().batch(batch)

    @contextmanager
    def block(self, module: nn.Module) -> Iterator[nn.Module]:
        self.order.append(module)
        module.load_state_dict(self.away[module], strict=False)
        yield module
        self._empty(module)

    @staticmethod
    def _empty(block: nn.Module) -> None:
        for parameter in block.parameters():
            parameter.data.fill_(torch.nan)


def test_one_block_at_a_time(tiny_llama: LlamaForCausalLM) -> None:
    ids = torch.randint(3, 190, (4, 16))
    roles = trace_roles(tiny_llama)
    expected = Walk(tiny_llama, roles, ids).run(run_block)
    blocks = list(tiny_llama.model.layers)
    place = Elsewhere(tiny_llama, blocks)
    found = Walk(tiny_llama, roles, [token_batch(ids)], tokens=32, place=place).run(run_block)
    assert torch.equal(torch.cat(found), torch.cat(expected))
    assert (place.batches, place.order) == (2, blocks)
