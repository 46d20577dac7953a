"""From what the last block gives to predictions: final norm, head, and how far two predictions are apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Roles
from sinkquant.models.stream import Stream
from sinkquant.models.stubs import Forward, call_model, stand_ins

ROWS = 256  # tokens whose logits exist at a time


class Head:
    """The end of a model, for hidden states of its last block."""

    def __init__(self, model: Any, roles: Roles) -> None:
        self.model, self.roles = model, roles
        self.last = model.get_submodule(roles.blocks[-1].name)
        self.head = model.get_submodule(roles.head) if roles.head is not None else nn.Identity()
        self.norm = model.get_submodule(roles.final_norm.name) if roles.final_norm is not None else nn.Identity()

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, D) behind the last block -> (…, vocabulary)."""
        return self.head(self.norm(hidden)).float()

    def divergence(self, hidden: Tensor, target: Tensor) -> Tensor:
        """KL(`target` ‖ `hidden`) in nats, summed over rows: (…, n, D) against (n, D) gives (…)."""
        return _divergence(self.logits(hidden), self.logits(target)).sum(-1)

    def losses(self, hidden: Tensor, target: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Parts of the mean KL in nats a token, for what the last block gives (N, T, D), some rows at a time: their
        logits need neither be kept nor computed again."""
        rows, expected = hidden.flatten(0, 1), target.flatten(0, 1)
        for got, wanted in zip(rows.split(ROWS), expected.split(ROWS), strict=True):
            yield self.divergence(got, wanted) / len(rows)

    def is_all(self, few: Batch) -> bool:
        """Whether `logits` are the model's own on a few samples: some models cap or scale them afterwards.

        False for a model of several stacks, whose answers depend on more than what the last block gives.
        """
        if len(self.roles.stacks) > 1:
            return False
        seen: list[Tensor] = []

        def keep(_module: Any, _arguments: Any, output: Any) -> None:
            seen.append(self.roles.blocks[-1].stream.given(output))

        hook = self.last.register_forward_hook(keep)
        try:
            with torch.no_grad():
                logits = getattr(call_model(self.model, few), "logits", None)
                if (
                    logits is None
                    or seen[0].dim() != logits.dim()
                    or seen[0].shape[-1] != getattr(self.head, "in_features", None)
                ):
                    return False  # several streams, which the model joins in front of its norm
                own = self.logits(seen[0])
                return torch.allclose(own, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))
        finally:
            hook.remove()


class Ending:
    """Everything behind the last block, for models whose answers are of whole samples: a class token and its head."""

    def __init__(self, model: Any, roles: Roles) -> None:
        self.model, self.roles = model, roles

    def logits(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(N, T, D) behind the last block, of the samples `batch` -> (…, classes); blocks are left out."""

        def gives(stream: Stream) -> Forward:
            return lambda *_, **__: stream.output(hidden)

        with stand_ins(self.model, {block.name: gives(block.stream) for block in self.roles.blocks}):
            logits: Tensor = call_model(self.model, batch).logits
        return logits.float()

    def losses(self, hidden: Tensor, target: Tensor, batch: Batch) -> Iterator[Tensor]:
        """The mean KL in nats an answer, in one part."""
        with torch.no_grad():
            expected = self.logits(target, batch)
        yield _divergence(self.logits(hidden, batch), expected).mean()

    def is_all(self, few: Batch) -> bool:
        """Whether `logits` are the model's own on a few samples."""
        if len(self.roles.stacks) > 1 or any(block.stream.carries for block in self.roles.blocks):
            return False
        seen: list[Tensor] = []
        last = self.roles.blocks[-1]
        hook = self.model.get_submodule(last.name).register_forward_hook(
            lambda _module, _arguments, output: seen.append(last.stream.given(output))
        )
        try:
            with torch.no_grad():
                logits = getattr(call_model(self.model, few), "logits", None)
        finally:
            hook.remove()
        if not isinstance(logits, Tensor):
            return False
        with torch.no_grad():
            return torch.allclose(self.logits(seen[0], few), logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


def ending(model: Any, roles: Roles, few: Batch) -> Head | Ending | None:
    """How what the last block gives becomes answers: row by row where that is all, else by the whole end of the model;
    None where answers are no logits or depend on more. `few`: samples to try it on."""
    return next((end for end in (Head(model, roles), Ending(model, roles)) if end.is_all(few)), None)


def _divergence(got: Tensor, expected: Tensor) -> Tensor:
    """KL(`expected` ‖ `got`) in nats of logits (…, classes): (…)."""
    expected, got = log_softmax(expected, -1), log_softmax(got, -1)
    return (expected.exp() * (expected - got)).sum(-1)
