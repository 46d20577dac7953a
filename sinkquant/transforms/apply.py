"""Carry out the transformations of a plan, in the order in which they are exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


Keys = tuple[str, ...]
Step = tuple[Keys, Callable[[], None]]  # the keys of the recipe that ask for it, and what does it


def fused_steps(model: nn.Module, roles: Roles, rotations: Rotations) -> Iterator[Step]:
    """Fold, then R1, then R2: everything that only changes weights. Each step keeps the model's function."""
    if rotations.stream:
        untie(model, roles)
    if rotations.fold_norms:
        yield ("transforms.fold_norms",), lambda: fold_norms(model, roles, final=rotations.stream)
    if rotations.stream:
        yield ("transforms.r1",), lambda: rotate_stream(model, roles, Rotation(roles.width, rotations.seed))
    if rotations.values and not rotations.smooth:
        yield ("transforms.r2",), lambda: _rotate_all_values(model, roles, rotations)


def _rotate_all_values(model: nn.Module, roles: Roles, rotations: Rotations) -> None:
    for index, block in enumerate(roles.blocks):
        for attention in block.attentions:
            if block.name in rotations.values and attention.plain:
                rotate_values(model, attention, Rotation(attention.value_dim, rotations.seed + 1 + index))
