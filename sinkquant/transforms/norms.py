"""Fold the weights of norms into the linears that read through them, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sinkquant.models.norm import clear, gain, scale_output
from sinkquant.models.roles import Norm, Roles

ROWS = 8192  # rows scaled at a time: a head is as large as many blocks


def fold_norm(model: nn.Module, norm: Norm, readers: tuple[str, ...]) -> None:
    """W ← W·diag(gain) for every reader.

    A norm's bias goes into the readers' biases if all of them have one; a model's class need not have a place for
    another. Else it stays in the norm, by the gain smaller, where a gain of zero stays too.
    """
    module = model.get_submodule(norm.name)
    linears = [model.get_submodule(name) for name in readers]
    shift = getattr(module, "bias", None)
    stays = shift is not None and any(linear.bias is None for linear in linears)
    factor = gain(module, norm.kind)
    if stays:
        factor = torch.where(factor == 0, 1.0, factor)
    with torch.no_grad():
        for linear in linears:
            weight: Any = linear.weight
            if shift is not None and not stays:
                bias: Any = linear.bias
                bias.copy_(bias.double() + weight.double() @ shift.double())
            for rows in weight.split(ROWS):
                rows.copy_(rows.double() * factor.to(rows.device))
        if stays:
            scale_output(module, norm.kind, 1 / factor)
        else:
            clear(module, norm.kind)
            if shift is not None:
                shift.zero_()


def untie(model: nn.Module, roles: Roles) -> None:
    """Give the head weights of its own, so that the final norm and a rotation can go into them."""
    if not roles.tied or roles.head is None:
        return
    head = model.get_submodule(roles.head)
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)  # type: ignore[operator]
    model.config.tie_word_embeddings = False  # type: ignore[union-attr]
    model.config.get_text_config().tie_word_embeddings = False  # type: ignore[union-attr, operator]


def fold_norms(model: nn.Module, roles: Roles, *, final: bool) -> None:
    """Fold every norm inside the blocks; `final`: also the one before the head, which must be untied."""
    for block in roles.blocks:
        for norm, readers in block.reads:
            fold_norm(model, norm, readers)
    if final and roles.final_norm is not None and roles.head is not None:
        fold_norm(model, roles.final_norm, (roles.head,))
