"""Fold the weights of norms into the linears that read through them, in float64."""

from __future__ import annotations

import torch
from torch import nn

from sinkquant.models.norm import clear, gain
from sinkquant.models.roles import Norm, Roles

ROWS = 8192  # rows scaled at a time: a head is as large as many blocks


def fold_norm(model: nn.Module, norm: Norm, readers: tuple[str, ...]) -> None:
    """W ← W·diag(gain) for every reader (a norm's bias, where there is one, goes into the readers' biases)."""
    module = model.get_submodule(norm.name)
    scale, shift = gain(module, norm.kind), getattr(module, "bias", None)
    with torch.no_grad():
        for name in readers:
            linear = model.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            if shift is not None:
                weight = linear.weight.double()
                added = weight @ shift.double()  # type: ignore[operator]
                before = added.new_zeros(added.shape) if linear.bias is None else linear.bias.double()
                linear.bias = nn.Parameter((before + added).to(linear.weight.dtype), requires_grad=False)
            for rows in linear.weight.split(ROWS):
                rows.copy_(rows.double() * scale.to(rows.device))
        clear(module, norm.kind)
        if shift is not None:
            shift.zero_()  # type: ignore[operator]


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
