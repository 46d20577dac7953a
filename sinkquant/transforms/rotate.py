"""Fuse rotations into the weights (QuaRot, arXiv 2404.00456; SpinQuant's names). All products in float64.

R1: the residual stream x becomes x·Q. R2: values, head by head. R4: the input of the down projection; its rotation of
the activations stays online, the one of the weights is fused. R3 changes no weight (see runtime/kv.py).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.models.roles import Attention, Stack
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.transforms.rotation import Rotation

ROWS = 8192  # rows rotated at a time: the float64 copies of a whole embedding would outweigh the model


def rotate_inputs(linear: nn.Module, rotation: Rotation) -> None:
    """W ← W·Q, for a linear (or an embedding, whose rows are stream vectors) on the in-features axis."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        for rows in weight.split(ROWS):
            rows.copy_(rotation.apply(rows.double()))


def rotate_outputs(linear: nn.Module, rotation: Rotation) -> None:
    """W ← Qᵀ·W and b ← b·Q, for a linear or a convolution (out, in, …) that writes to a rotated space."""
    weight, bias = linear.weight, linear.bias
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        weight.copy_(rotation.apply(weight.double().movedim(0, -1)).movedim(-1, 0))
        if isinstance(bias, Tensor):
            bias.copy_(rotation.apply(bias.double()))


def rotate_stream(model: nn.Module, stack: Stack, rotation: Rotation) -> None:
    """R1. Norms and scales must be folded and the head untied; a bias that stayed in a norm turns with the stream."""
    modules = dict(model.named_modules())
    for name in stack.embeddings:
        if name not in modules:
            _rotate_vectors(model.get_parameter(name), rotation)
        elif isinstance(modules[name], nn.Embedding):
            rotate_inputs(modules[name], rotation)
        else:
            rotate_outputs(modules[name], rotation)
    for norm, readers in stack.reads_stream:
        bias = getattr(modules[norm.name], "bias", None)
        if isinstance(bias, Tensor):
            _rotate_vectors(bias, rotation)
        for name in readers:
            rotate_inputs(modules[name], rotation)
    for block in stack.blocks:
        for writer in block.writers:
            rotate_outputs(modules[writer.linear], rotation)


def _rotate_vectors(x: Tensor, rotation: Rotation) -> None:
    """x (…, D) ← x·Q."""
    with torch.no_grad():
        x.copy_(rotation.apply(x.double()))


def rotate_values(model: nn.Module, attention: Attention, rotation: Rotation) -> None:
    """R2: every value head by Q on its outputs, every query head of the output projection by Q on its inputs."""
    assert attention.value is not None and attention.output is not None
    value, output = model.get_submodule(attention.value), model.get_submodule(attention.output)
    assert isinstance(value, nn.Linear) and isinstance(output, nn.Linear)
    size = rotation.size
    with torch.no_grad():
        heads = value.weight.double().T.reshape(value.in_features, -1, size)  # (in, kv heads, d)
        value.weight.copy_(rotation.apply(heads).reshape(value.in_features, -1).T)
        if value.bias is not None:
            value.bias.copy_(rotation.apply(value.bias.double().reshape(-1, size)).reshape(-1))
        heads = output.weight.double().reshape(output.out_features, -1, size)  # (out, heads, d)
        output.weight.copy_(rotation.apply(heads).reshape(output.out_features, -1))


def rotate_online(model: nn.Module, names: Iterable[str]) -> None:
    """R4 and its like: the rotation of the input stays online, its inverse goes into the weight."""
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        with torch.no_grad():
            linear.weight.copy_(fast_hadamard(linear.weight.double()))
        replace_module(model, name, QuantizedLinear.from_linear(linear, LinearScheme(None, None, rotate=True), None))
