"""Linears that a model class stores transposed (GPT-2's Conv1D), as linears like any other."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class TransposedLinear(nn.Linear):
    """A linear whose weight (out, in) lies in state dicts as (in, out), where the model's class looks for it."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = destination[prefix + "weight"].T.contiguous()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if prefix + "weight" in state_dict:
            state_dict = {**state_dict, prefix + "weight": state_dict[prefix + "weight"].T.contiguous()}
        super()._load_from_state_dict(state_dict, prefix, *args)


def as_linear(module: nn.Module) -> nn.Module:
    """`module`, or the linear that computes what a Conv1D does, with a weight of its own."""
    if type(module) is not Conv1D:
        return module
    width, outputs = module.weight.shape
    with torch.device("meta"):
        made = TransposedLinear(width, outputs)
    made.weight = nn.Parameter(module.weight.detach().T.contiguous(), requires_grad=module.weight.requires_grad)
    made.bias = module.bias
    return made.train(module.training)


def with_linears(model: nn.Module) -> None:
    """Put a linear in the place of every Conv1D."""
    for name, module in list(model.named_modules()):
        if type(module) is Conv1D:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, as_linear(module))
