"""Switch integer execution on for a whole model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import nn

from sinkquant.runtime.kernels.choose import Chooser
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.shared import SharedInputs

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def use_kernels(model: Model, chooser: Chooser | None = None) -> Model:
    """Let every quantized linear of `model` compute with the best kernel there is for it on its device.

    Logits then differ from the reference by rounding. Where a kernel wants another layout of the codes, they are moved
    into it one layer at a time, so that there is never a second copy of the model; `state_dict` and `save_pretrained`
    give the stored tensors nevertheless. Move the model to its device and dtype first. A `chooser` that is passed keeps
    what it found for the next model.
    """
    chooser = chooser or Chooser()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for linears in _by_parent(model):
        for alike in _by_product([layer for layer in linears if layer.choice is None], chooser):
            choice = chooser.choose(alike, dtype)
            if choice is not None:
                for layer in alike:
                    layer.use(choice, dtype)
        _share([layer for layer in linears if layer.choice is not None])
    return model


def _by_parent(model: nn.Module) -> Iterator[list[QuantizedLinear]]:
    """The linears with quantized weights in each module; `model` itself may be one."""
    candidates: list[Iterable[nn.Module]] = [[model], *(module.children() for module in model.modules())]
    for modules in candidates:
        yield [layer for layer in modules if isinstance(layer, QuantizedLinear) and layer.scheme.weight is not None]


def _by_product(linears: list[QuantizedLinear], chooser: Chooser) -> list[list[QuantizedLinear]]:
    """Those with one product, for they may get the same input and should use one kernel then."""
    groups: dict[object, list[QuantizedLinear]] = {}
    for layer in linears:
        alone = layer if layer.scheme.center else None  # centered inputs are each linear's own
        groups.setdefault((chooser.product_of(layer), layer.scheme.rotate, alone), []).append(layer)
    return list(groups.values())


def _share(linears: list[QuantizedLinear]) -> None:
    """Let linears of one module share inputs. Where each gets another input, none is kept for long."""
    siblings, shared = [layer for layer in linears if not layer.scheme.center], SharedInputs()
    if len(siblings) > 1:
        for layer in siblings:
            layer.shared = shared
