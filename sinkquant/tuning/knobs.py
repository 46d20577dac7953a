"""What tuning may turn: tensors that scale or shift, never codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sinkquant.runtime.linear import QuantizedLinear

SCALES = ("weight_scale", "input_scale")
SHIFTS = ("bias", "sink_key", "sink_value", "key_offset", "value_offset")


@dataclass(frozen=True, eq=False)
class Knob:
    """One tensor of a block, base + size·turn: `turn` starts at zero and is what the optimizer changes.

    A scale's size is its own magnitude, element by element, so that a step changes every scale by the same share; so is
    that of a norm's gain. A shift's is its root mean square.
    """

    name: str  # within its block
    base: Tensor
    size: Tensor
    turn: Tensor

    def value(self, turn: Tensor) -> Tensor:
        """The tensor with that turn."""
        return self.base + self.size * turn


def block_knobs(block: nn.Module) -> list[Knob]:
    """All knobs of a block: scales of its quantized linears, weights of its norms, biases, offsets and the prefix."""
    found = []
    for path, module in block.named_modules():
        own = dict(module.named_buffers(recurse=False)) | dict(module.named_parameters(recurse=False))
        for name, tensor in own.items():
            if not tensor.is_floating_point():  # masks and the like may bear any name
                continue
            full = f"{path}.{name}" if path else name
            if isinstance(module, QuantizedLinear) and name in SCALES:
                found.append(_knob(full, tensor, tensor.abs()))
            elif name in SHIFTS:
                found.append(_knob(full, tensor, tensor.pow(2).mean().sqrt().expand_as(tensor)))
            elif name == "weight" and tensor.dim() == 1:  # a norm's; every matrix has two dimensions
                found.append(_knob(full, tensor, _gain(module, tensor)))
    return found


def _gain(norm: nn.Module, weight: Tensor) -> Tensor:
    """|γ|, or |1 + γ| for offset norms, (width,): what the norm makes of ±1, its bias left out."""
    signs = torch.ones_like(weight)
    signs[1::2] = -1
    with torch.no_grad():
        try:
            return ((norm(signs) - norm(-signs)) / 2).abs()
        except Exception:  # a norm that takes a gate as well, or heads, says so by an error of any kind
            return weight.abs()


def _knob(name: str, tensor: Tensor, size: Tensor) -> Knob:
    base = tensor.detach().float().clone()
    return Knob(name, base, size.detach().float().clone(), torch.zeros_like(base).requires_grad_())


def write_back(block: nn.Module, knobs: list[Knob]) -> None:
    """Store the turned tensors in the block."""
    with torch.no_grad():
        for knob in knobs:
            path, _, name = knob.name.rpartition(".")
            getattr(block.get_submodule(path), name).copy_(knob.value(knob.turn))
