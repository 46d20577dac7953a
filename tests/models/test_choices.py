"""Linears whose outputs end in a choice, followed through operations and not through other weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sinkquant.models.choices import Choices


class Routed(nn.Module):
    """A router as a linear, one as a bare weight behind a linear, and an indexer of two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.before, self.after, self.query, self.key = (nn.Linear(8, 8) for _ in range(5))
        self.bare = nn.Parameter(torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2)
        x = x + self.before(x) * weights.sum(-1, keepdim=True)
        other = torch.nn.functional.linear(x, self.bare).sigmoid().topk(2).values
        scores = (self.query(x) @ self.key(x).mT).relu()
        order = scores.argsort(dim=-1)
        return self.after(x) + other.sum() + chosen.sum() + order.sum()


def test_only_what_a_choice_is_made_from() -> None:
    torch.manual_seed(0)
    model, choices = Routed().requires_grad_(False), Choices()
    for name, module in model.named_children():
        module.register_forward_hook(lambda _, args, output, name=name: choices.begin(name, output))
    with choices:
        model(torch.randn(5, 8))
    assert choices.made_from == {"router", "query", "key"}
