"""Switch integer execution on for a whole model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import nn

from sinkquant.runtime.kernels.choose import Chooser, product_of
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
        for alike in _by_product([layer for layer in linears if layer.choice is None]):
            choice = chooser.choose(alike, dtype)
            if choice is not None:
                for layer in alike:
                    layer.use(choice, dtype)
        _share([layer for layer in linears if layer.choice is not None and not layer.scheme.center])
    return model


def _by_parent(model: nn.Module) -> Iterator[list[QuantizedLinear]]:
    """The linears with quantized weights in each module; `model` itself may be one."""
    candidates: list[Iterable[nn.Module]] = [[model], *(module.children() for module in model.modules())]
    for modules in candidates:
        yield [layer for layer in modules if isinstance(layer, QuantizedLinear) and layer.scheme.weight is not None]


def _by_product(linears: list[QuantizedLinear]) -> list[list[QuantizedLinear]]:
    """Those with one product on one device, for they may get the same input, and should use one kernel then."""
    groups: dict[object, list[QuantizedLinear]] = {}
    for layer in linears:
        groups.setdefault((product_of(layer), layer.weight_scale.device), []).append(layer)
    return list(groups.values())


def _share(siblings: list[QuantizedLinear]) -> None:
    """Let linears of one module share inputs. Where each gets another input, none is kept for long."""
    shared = SharedInputs()
    for layer in siblings if len(siblings) > 1 else []:
        layer.shared = shared
