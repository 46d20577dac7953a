"""From what the last block gives to predictions: final norm, head, and how far two predictions are apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from sinkquant.inputs.batches import Batch
from sinkquant.models.attention import own_attention
from sinkquant.models.roles import Roles
from sinkquant.models.stubs import call_model

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
        expected, got = (log_softmax(self.logits(x), -1) for x in (target, hidden))
        return (expected.exp() * (expected - got)).sum((-2, -1))

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
            with torch.no_grad(), own_attention(self.model, self.roles.attends):
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
