"""Where a block's tensors and a batch are while they are worked on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn

from sinkquant.inputs.batches import Batch


class Place(ABC):
    """Asked by the walk before it touches anything; nothing else knows where tensors are."""

    @abstractmethod
    def batch(self, batch: Batch) -> Batch:
        """The batch, where the model's first modules are."""

    @abstractmethod
    def block(self, module: nn.Module) -> AbstractContextManager[nn.Module]:
        """The block with its tensors where it is computed, for the time of the context; what was changed is kept."""


class Memory(Place):
    """The whole model is in memory, on whatever device it was loaded to."""

    def __init__(self, model: nn.Module) -> None:
        self.device = next(model.parameters()).device

    def batch(self, batch: Batch) -> Batch:
        return batch.to(self.device)

    @contextmanager
    def block(self, module: nn.Module) -> Iterator[nn.Module]:
        yield module
