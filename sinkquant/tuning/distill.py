"""End-to-end distillation: the quantized model's predictions towards those of the model before rounding.

The loss is KL(full precision ‖ quantized) over the vocabulary, a token each, or over the classes, a sample each. Codes
stay as they are; rounding of activations, keys and values passes gradients through (straight-through estimator, arXiv
1308.3432). Only a block's input is kept for the backward pass, which computes the block again; so memory stays at one
block's activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from sinkquant.models.head import Ending, Head
from sinkquant.models.roles import Roles
from sinkquant.recipes.schema import Tuning
from sinkquant.tuning.knobs import Knob, block_knobs, write_back
from sinkquant.walk.walk import Walk

WARM_UP, FINAL = 5, 0.1  # steps to the full rate; its share at the end (cosine in between)


@dataclass(frozen=True)
class Tuned:
    """Mean KL in nats a token on held-out text. `kept`: the knobs were turned because that made it smaller."""

    before: float
    after: float
    kept: bool


class Distillation:
    """The text's way through a model whose knobs are being turned."""

    def __init__(self, model: Any, roles: Roles, walk: Walk, targets: list[Tensor], end: Head | Ending) -> None:
        """`targets`: what the last block gave before rounding, (B, T, D) for every batch of `walk`."""
        self.walk, self.targets = walk, targets
        self.blocks = [model.get_submodule(block.name) for block in roles.blocks]
        self.streams = [block.stream for block in roles.blocks]
        self.knobs = [block_knobs(block) for block in self.blocks]
        self.end = end

    def loss(self, batch: int) -> float:
        """Mean KL in nats a token on one batch; where gradients are on, those of all turns are added up."""
        hidden = self.walk.inputs[batch].detach()
        for index, (block, knobs) in enumerate(zip(self.blocks, self.knobs, strict=True)):
            hidden = self._block(index, batch, block, knobs, hidden)
        end, total = hidden.detach().requires_grad_(), 0.0
        for part in self.end.losses(end, self.targets[batch], self.walk.batches[batch]):  # backwards at once
            total += part.item()
            if torch.is_grad_enabled():
                part.backward()  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():
            hidden.backward(end.grad)  # type: ignore[no-untyped-call]
        return total

    def _block(self, index: int, batch: int, block: nn.Module, knobs: list[Knob], hidden: Tensor) -> Tensor:
        arguments, stream = self.walk.arguments(index)[batch], self.streams[index]

        def forward(x: Tensor, *turns: Tensor) -> Tensor:
            values = {knob.name: knob.value(turn) for knob, turn in zip(knobs, turns, strict=True)}
            with self.walk.telling(index, batch):
                return stream.given(functional_call(block, values, *stream.call(arguments, x)))

        return checkpoint(forward, hidden, *(knob.turn for knob in knobs), use_reentrant=False)


def distill(run: Distillation, held_out: int, spec: Tuning, progress: Callable[[int, int], None]) -> Tuned:
    """Turn the knobs on all batches but the last `held_out`, which decide whether the result is kept.

    The model has to run through our attention function for as long as this takes.
    """
    train = len(run.targets) - held_out
    turns = [knob.turn for knobs in run.knobs for knob in knobs]
    steps = spec.epochs * train

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP) * (FINAL + (1 - FINAL) * (1 + math.cos(math.pi * step / steps)) / 2)

    optimizer = torch.optim.Adam(turns, lr=spec.rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    generator = torch.Generator().manual_seed(0)
    before = _mean_loss(run, range(train, len(run.targets)))
    done = 0
    for _ in range(spec.epochs):
        for batch in torch.randperm(train, generator=generator).tolist():
            optimizer.zero_grad()
            run.loss(batch)
            optimizer.step()
            schedule.step()
            done += 1
            progress(done, steps)
    after = _mean_loss(run, range(train, len(run.targets)))
    if after < before:
        for block, knobs in zip(run.blocks, run.knobs, strict=True):
            write_back(block, knobs)
    return Tuned(before, after, after < before)


def _mean_loss(run: Distillation, batches: range) -> float:
    with torch.no_grad():
        return sum(run.loss(batch) for batch in batches) / len(batches)
