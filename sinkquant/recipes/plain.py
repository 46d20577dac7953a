"""What a recipe is compared with: the same bits, and none of what sinkquant does about outliers."""

from __future__ import annotations

from collections.abc import Sequence

from .load import load_recipe
from .schema import Recipe

NO_SINKS = ("sinks.prefix=none", "sinks.exclude=false")
NO_TRANSFORMS = (
    "transforms.fold_norms=false",
    *(f"transforms.{name}=false" for name in ("r1", "r2", "r3", "r4", "smooth", "inputs")),
    "kv_cache.balance=false", "activations.center=false",
)  # fmt: skip
TO_NEAREST = ("weights.method=rtn", "weights.sweeps=0", "weights.budget=null", "tuning.epochs=0")


def plain_counterpart(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe `name` with `overrides`, then without sink handling and transformations, rounded to nearest."""
    own = (f"name=plain-{name}", f"description=As {name} without sink handling and transformations.")
    return load_recipe(name, (*overrides, *NO_SINKS, *NO_TRANSFORMS, *TO_NEAREST, *own))
