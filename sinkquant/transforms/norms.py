"""Fold the weights of norms into the linears that read through them, in float64."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.models.norm import channel_scale, clear, gain, scale_output
from sinkquant.models.roles import Norm, Roles, Stack, Writer

ROWS = 8192  # rows scaled at a time: a head is as large as many blocks


def fold_norm(model: nn.Module, norm: Norm, readers: tuple[str, ...], shifting: Collection[str] = ()) -> None:
    """W ← W·diag(gain) for every reader.

    A norm's bias goes into the readers' biases if all of them have one; a model's class need not have a place for
    another. Linears of which a constant is of no consequence (`Roles.shifting`) need none. Else it stays in the norm,
    by the gain smaller, where a gain of zero stays too.
    """
    module = model.get_submodule(norm.name)
    linears = [model.get_submodule(name) for name in readers]
    shift = getattr(module, "bias", None)
    biases = [getattr(linear, "bias", None) for linear in linears]
    placed = all(bias is not None or name in shifting for name, bias in zip(readers, biases, strict=True))
    stays = shift is not None and not placed
    factor = gain(module, norm.kind)
    if stays:
        factor = torch.where(factor == 0, 1.0, factor)
    with torch.no_grad():
        for linear, bias in zip(linears, biases, strict=True):
            weight: Any = linear.weight
            if shift is not None and bias is not None and not stays:
                bias.copy_(bias.double() + weight.double() @ shift.double())
            for rows in weight.split(ROWS):
                rows.copy_(rows.double() * factor.to(rows.device))
        if stays:
            scale_output(module, norm.kind, 1 / factor)
        else:
            clear(module, norm.kind)
            if shift is not None:
                shift.zero_()


def fold_scale(model: nn.Module, writer: Writer) -> None:
    """Put the factors between a writer and the stream (layer scale) into the writer: W ← diag(λ)·W, b ← λb, λ ← 1."""
    factors = channel_scale(model.get_submodule(writer.scale)) if writer.scale is not None else None
    if factors is None:
        return
    linear = model.get_submodule(writer.linear)
    with torch.no_grad():
        for tensor in (linear.weight, linear.bias):
            if isinstance(tensor, Tensor):
                tensor.copy_((tensor.double().T * factors.double()).T)
        factors.fill_(1.0)


def untie(model: nn.Module, roles: Roles) -> None:
    """Give the head weights of its own, so that the final norm and a rotation can go into them."""
    if not roles.tied or roles.head is None:
        return
    head = model.get_submodule(roles.head)
    for name, parameter in list(head.named_parameters(recurse=False)):  # a bias may be another module's too
        setattr(head, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
    model.config.tie_word_embeddings = False  # type: ignore[union-attr]
    model.config.get_text_config().tie_word_embeddings = False  # type: ignore[union-attr, operator]


def fold_norms(model: nn.Module, stack: Stack, *, final: bool, shifting: Collection[str] = ()) -> None:
    """Fold every norm on a stream; `final`: also the one behind the last block, whose readers must be untied."""
    for norm, readers in stack.reads_stream if final else (read for block in stack.blocks for read in block.reads):
        fold_norm(model, norm, readers, shifting)
