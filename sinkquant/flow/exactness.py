"""Which step of a transformation changed the model's function, and what to leave out so that none does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError
from sinkquant.evaluation.difference import difference
from sinkquant.models.roles import Block, Roles
from sinkquant.models.stream import Arguments
from sinkquant.recipes.schema import Recipe
from sinkquant.transforms.apply import Keys

TOLERANCE = 1e-4  # of the logits' scale, float32
LOOSEST = 1e-3  # what no rounding excuses: a wrong transformation is orders of magnitude beyond
ROUNDINGS = 32  # of float32 in a block, each in its worst direction, of which one alone is measured


def is_exact(error: float, model: nn.Module, roles: Roles, state: Tensor, answers: Callable[[], Tensor]) -> bool:
    """Whether `error`, relative to the scale of the logits, is one of rounding in float32. `state`: the logits of the
    model as it is, which `answers` computes.

    Some models amplify it (gated delta rules, routers near a tie): what one more rounding of the stream in front of
    every block changes is measured where `error` is beyond TOLERANCE, which costs a pass.
    """
    if error <= TOLERANCE:
        return True
    if not error <= LOOSEST:
        return False
    with ExitStack() as hooks:
        for seed, block in enumerate(roles.blocks):
            hook = _rounds(block, torch.Generator().manual_seed(seed))
            hooks.callback(model.get_submodule(block.name).register_forward_pre_hook(hook, with_kwargs=True).remove)
        return error <= ROUNDINGS * difference(answers(), state)


def _rounds(block: Block, generator: torch.Generator) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]:
    """A hook that moves every value of the stream by up to a unit in the last place."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        hidden = block.stream.taken((args, kwargs))
        noise = torch.rand(hidden.shape, generator=generator).to(hidden.device) * 2 - 1
        return block.stream.call((args, kwargs), hidden * (1 + noise * torch.finfo(hidden.dtype).eps))

    return hook


def inexact(errors: Mapping[Keys, float], total: float, recipe: Recipe, stream: bool) -> SinkquantError:
    """The error for a transformed model whose logits are `total` off.

    `errors`: what each step changed, by the keys of the recipe that asked for it; `stream`: whether R1 was possible.
    A step that is exact alone is exact behind any other, so that leaving out the others leaves an exact model.
    """
    wrong = [keys for keys, error in errors.items() if not error <= TOLERANCE] or [max(errors, key=lambda k: errors[k])]
    change = ", ".join(f"{' with '.join(keys)} changes them by {errors[keys]:.1e}" for keys in wrong)
    off = switched_off([key for keys in wrong for key in keys], recipe, stream)
    remedy = " ".join(f"--set {key}=false" for key in off)
    return SinkquantError(
        f"the transformed model gives other logits than the original, {total:.1e} of their scale apart (limit "
        f"{TOLERANCE}): {change}; leave it out with {remedy}, and report the model."
    )


def switched_off(wrong: list[str], recipe: Recipe, stream: bool) -> list[str]:
    """The keys to set to false so that no step in `wrong` is done and the recipe stays without contradiction."""
    keys = set(wrong)
    if "transforms.fold_norms" in keys:
        keys |= {"transforms.r1", "transforms.smooth"}  # they need folded norms
    if not stream and recipe.transforms.r1 and keys & {"transforms.smooth", "transforms.inputs"}:
        keys.add("transforms.r1")  # in whose place they are done
    return [key for key in KEYS if key in keys and (key in wrong or _is_on(key, recipe))]


KEYS = (
    "transforms.fold_norms", "transforms.r1", "transforms.r2", "transforms.smooth", "kv_cache.balance",
    "transforms.inputs", "transforms.r4", "transforms.r3",
)  # fmt: skip
"""Keys of a recipe that ask for a step, in the order of the steps."""


def _is_on(key: str, recipe: Recipe) -> bool:
    section, name = key.split(".")
    return bool(getattr(getattr(recipe, section), name))
