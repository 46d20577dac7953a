"""Experts that transformers' registry does not run but transformers itself replaces by linears where other quantization
methods load a model (Llama 4): every expert computes rows of its own, those of other experts' tokens being zeros."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION

INPUTS, OUTPUT = "gate_up_proj", "down_proj"
KINDS: dict[str, Any] = {name: entry["module_name"] for name, entry in MODULES_TO_PATCH_FOR_QUANTIZATION.items()}


def replaceable(model: nn.Module) -> dict[str, nn.Module]:
    """By name the modules for which transformers has a stand-in, whose weights are gate and up (E, D, 2I) and down
    (E, I, D)."""
    return {name: module for name, module in model.named_modules() if _fits(module)}


def _fits(module: nn.Module) -> bool:
    shapes = {name: tensor.shape for name, tensor in module.named_parameters()}
    if type(module).__name__ not in KINDS or shapes.keys() != {INPUTS, OUTPUT}:
        return False
    return shapes[INPUTS][1:] == (shapes[OUTPUT][2], 2 * shapes[OUTPUT][1])


@torch.no_grad()
def put_stand_ins(model: Any, names: Collection[str] | None = None) -> list[str]:
    """Put stand-ins in place of the modules `names`, or of all that have one; returns the names."""
    chosen = {name: module for name, module in replaceable(model).items() if names is None or name in names}
    for name, module in chosen.items():
        with torch.device("meta"):
            made = KINDS[type(module).__name__](model.config.get_text_config())
        for number, expert in enumerate(made):
            gate, up = getattr(module, INPUTS)[number].T.chunk(2)
            for linear, weight in zip(_linears(expert), (gate, up, getattr(module, OUTPUT)[number].T), strict=True):
                linear.weight = nn.Parameter(_own(weight), requires_grad=False)
        model.set_submodule(name, made.train(module.training))
    return list(chosen)


def _linears(expert: Any) -> tuple[Any, Any, Any]:
    return expert.gate_proj, expert.up_proj, expert.down_proj


def _own(weight: Tensor) -> Tensor:
    return weight.clone(memory_format=torch.contiguous_format)


def stand_ins(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that stand in for others."""
    return tuple(name for name, module in model.named_modules() if type(module) in KINDS.values())
