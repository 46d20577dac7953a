"""Which step of a transformation changed the model's function, and what to leave out so that none does."""

from __future__ import annotations

from collections.abc import Mapping

from sinkquant.errors import SinkquantError
from sinkquant.recipes.schema import Recipe
from sinkquant.transforms.apply import Keys

TOLERANCE = 1e-4  # of the logits' scale, float32


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
