"""Carry out the transformations of a plan, in the order in which they are exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from sinkquant.models.roles import Roles, Stack
from sinkquant.quantization.scheme import Transforms
from sinkquant.transforms.norms import fold_norms, fold_scale, untie
from sinkquant.transforms.rotate import rotate_stream, rotate_values
from sinkquant.transforms.rotation import Rotation

Keys = tuple[str, ...]
Step = tuple[Keys, Callable[[], None]]  # the keys of the recipe that ask for it, and what does it


def fused_steps(model: nn.Module, roles: Roles, rotations: Transforms) -> Iterator[Step]:
    """Fold, then R1, then R2: everything that only changes weights. Each step keeps the model's function."""
    if roles.stacks[-1].name in rotations.stream:
        untie(model, roles)
    if rotations.fold_norms:
        yield ("transforms.fold_norms",), lambda: _fold_all(model, roles, rotations)
    if rotations.stream:
        yield ("transforms.r1",), lambda: _rotate_streams(model, roles, rotations)
    if rotations.values and (not rotations.smooth or rotations.apart):
        yield ("transforms.r2",), lambda: _rotate_all_values(model, roles, rotations)


def _fold_all(model: nn.Module, roles: Roles, rotations: Transforms) -> None:
    for stack in roles.stacks:
        if stack.name in rotations.fold_norms:
            fold_norms(model, stack, final=stack.name in rotations.stream, shifting=roles.shifting)


def _rotate_streams(model: nn.Module, roles: Roles, rotations: Transforms) -> None:
    for stack in roles.stacks:
        if stack.name in rotations.stream:
            for block in stack.blocks:
                for writer in block.writers:
                    fold_scale(model, writer)
            rotate_stream(model, stack, stream_rotation(stack, rotations.seed))


def stream_rotation(stack: Stack, seed: int) -> Rotation:
    """R1 of a stack: one that its norms commute with."""
    return Rotation(stack.width, seed, keeps_mean=stack.subtracts_mean)


def _rotate_all_values(model: nn.Module, roles: Roles, rotations: Transforms) -> None:
    smoothed = {  # whose values have been transformed by smoothing
        block.name for stack in roles.stacks if rotations.smooth and stack.name not in rotations.apart
        for block in stack.blocks
    }  # fmt: skip
    for index, block in enumerate(roles.blocks):
        for attention in block.attentions:
            if block.name in rotations.values and block.name not in smoothed and attention.plain:
                rotate_values(model, attention, Rotation(attention.value_dim, rotations.seed + 1 + index))
