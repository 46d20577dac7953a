"""Switch integer execution on for a whole model."""

from __future__ import annotations

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
    for layer in model.modules():
        if isinstance(layer, QuantizedLinear) and layer.scheme.weight is not None and layer.choice is None:
            choice = chooser.choose(layer, dtype)
            if choice is not None:
                layer.use(choice, dtype)
    for module in model.modules():
        _share([child for child in module.children() if isinstance(child, QuantizedLinear)])
    return model


def _share(linears: list[QuantizedLinear]) -> None:
    """Let linears of one module share inputs. Where each gets another input, none is kept for long."""
    siblings = [layer for layer in linears if layer.choice is not None and not layer.scheme.center]
    shared = SharedInputs()
    for layer in siblings if len(siblings) > 1 else []:
        layer.shared = shared
