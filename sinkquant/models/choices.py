"""Which linears decide: routers and indexers, whose outputs end in a choice of experts or tokens.

A rounding error there does not stay small: another expert or another token is chosen. They are known by where their
outputs go, operation by operation, until another matrix of weights takes over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CHOICES = {
    torch.ops.aten.topk.default,
    torch.ops.aten.sort.default,
    torch.ops.aten.sort.stable,
    torch.ops.aten.argsort.default,
    torch.ops.aten.argmax.default,
}


class Choices(TorchDispatchMode):
    """Follows the outputs of linears while it is entered; `made_from` are those that a choice was made from."""

    def __init__(self) -> None:
        super().__init__()
        self.made_from: set[str] = set()
        self._origins: dict[int, tuple[Tensor, frozenset[str]]] = {}  # the tensor is kept so that its id stays its own
        self._weights: dict[int, Tensor] = {}  # views and copies of matrices of weights

    def begin(self, linear: str, output: Tensor) -> None:
        """From here on `output` comes from `linear` and nothing else."""
        self._origins[id(output)] = output, frozenset({linear})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, and hand the inputs' origins on to the outputs."""
        result = func(*args, **(kwargs or {}))
        given = list(_tensors((args, kwargs or {})))
        origins: frozenset[str] = frozenset().union(*(self._origins[id(x)][1] for x in given if id(x) in self._origins))
        if func in CHOICES:
            self.made_from |= origins
        weights = [x for x in given if id(x) in self._weights or (isinstance(x, nn.Parameter) and x.dim() > 1)]
        for made in _tensors(result):
            if weights and len(weights) == len(given):
                self._weights[id(made)] = made
            elif origins and not weights:
                self._origins[id(made)] = made, origins
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    return (x for x in tree_leaves(value) if isinstance(x, Tensor))
