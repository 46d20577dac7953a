"""Carry out the transformations of a plan, in the order in which they are exact."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sinkquant.models.roles import Roles
from sinkquant.transforms.norms import fold_norms, untie
from sinkquant.transforms.rotate import rotate_stream, rotate_values
from sinkquant.transforms.rotation import Rotation


@dataclass(frozen=True)
class Rotations:
    """Which rotations a model gets; `values` lists the blocks (by name) that R2 is possible in."""

    fold_norms: bool
    stream: bool  # R1
    values: tuple[str, ...]  # R2
    keys: bool  # R3, online
    down: bool  # R4, online
    seed: int
    smooth: bool = False  # balance inputs and weights by their moments; the values' transform then takes R2's place
    inputs: bool = False  # rotate the inputs of all other linears online, in place of R1


def apply_fused(model: nn.Module, roles: Roles, rotations: Rotations) -> None:
    """Fold, then R1, then R2: everything that only changes weights."""
    if rotations.stream:
        untie(model, roles)
    if rotations.fold_norms:
        fold_norms(model, roles, final=rotations.stream)
    if rotations.stream:
        rotate_stream(model, roles, Rotation(roles.width, rotations.seed))
    for index, block in enumerate(roles.blocks):
        if block.name in rotations.values and block.attention is not None and not rotations.smooth:
            rotate_values(model, block.attention, Rotation(block.attention.head_dim, rotations.seed + 1 + index))
