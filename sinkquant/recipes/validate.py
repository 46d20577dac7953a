"""What the sections of a recipe ask of each other, one sentence with the remedy for each contradiction."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from .messages import first_of, listing, show

if TYPE_CHECKING:
    from .schema import Recipe


def check(recipe: Recipe) -> None:
    """Raise UsageError with the first contradiction in `recipe`, and the number of the others."""
    sentences = problems(recipe)
    if sentences:
        raise first_of(sentences)


def problems(recipe: Recipe) -> tuple[str, ...]:
    """Every contradiction between sections, as a sentence with its remedy."""
    found = (
        _rotation_without_folding(recipe),
        _limit_without_int8(recipe),
        _budget_without_room(recipe),
        _not_portable(recipe),
    )
    return tuple(sentence for sentence in found if sentence)


def portable_fixes(recipe: Recipe) -> dict[str, object]:
    """The keys that keep `recipe` out of stock loaders, each with the value that they can load.

    Stock transformers, vLLM and SGLang share two integer schemes: packed 4-bit weights, and int8 weights with
    one scale a channel under int8 activations. They skip online rotations in silence, keep their own attention and
    KV cache, and do not agree on quantized embeddings and heads.
    """
    needs: dict[str, object] = {
        "sinks.prefix": "none",
        "transforms.r3": False,
        "transforms.r4": False,
        "transforms.inputs": False,
        "activations.center": False,
        "activations.route": None,
        "weights.symmetric": True,  # loaders expect packed zero points in another shape than the format's own
        "weights.head_bits": 16,
        "weights.embedding_bits": 16,
        "kv_cache.bits": 16,
        "kv_cache.balance": False,
    }
    if recipe.activations.bits == 16 and recipe.weights.bits != 8:
        needs |= {"weights.bits": 4}
        if recipe.weights.budget is not None and recipe.weights.budget <= 4:
            needs |= {"weights.budget": None}
    else:
        needs |= {"weights.bits": 8, "weights.group_size": None, "weights.budget": None}
        needs |= {"activations.bits": 8, "activations.symmetric": True}
    return {key: value for key, value in needs.items() if attrgetter(key)(recipe) != value}


def _not_portable(recipe: Recipe) -> str | None:
    fixes = portable_fixes(recipe)
    if recipe.target != "portable" or not fixes:
        return None
    forbidden = listing([f"{key}={show(attrgetter(key)(recipe))}" for key in fixes], "or")
    remedy = listing([f"{key}={show(value)}" for key, value in fixes.items()], "and")
    return (
        f"a portable recipe (symmetric W4A16, or symmetric W8A8 with one scale a channel) cannot have {forbidden}: "
        f"set {remedy}, or target=sink-aware."
    )


def _rotation_without_folding(recipe: Recipe) -> str | None:
    # A norm's scale does not commute with a rotation of the stream.
    if recipe.transforms.r1 and not recipe.transforms.fold_norms:
        return "transforms.r1 needs folded norms: set transforms.fold_norms=true or transforms.r1=false."
    if recipe.transforms.smooth and not recipe.transforms.fold_norms:  # the norm's weight is where smoothing goes
        return "transforms.smooth needs folded norms: set transforms.fold_norms=true or transforms.smooth=false."
    return None


def _limit_without_int8(recipe: Recipe) -> str | None:
    if recipe.weights.limit is not None and recipe.weights.bits != 8:
        return (
            f"weights.limit is for 8-bit weights but weights.bits is {recipe.weights.bits}: "
            "set weights.limit=null or weights.bits=8."
        )
    return None


def _budget_without_room(recipe: Recipe) -> str | None:
    budget, bits = recipe.weights.budget, recipe.weights.bits
    if budget is None or (bits < budget and bits < 8):
        return None
    if bits >= 8:
        return (
            f"weights.budget raises some linears to 8 bits but weights.bits is {bits}: "
            "set weights.budget=null or weights.bits=4."
        )
    return (
        f"weights.budget is {budget:g} but weights.bits is {bits} already: "
        f"set weights.budget above {bits} and at most 8, or to null."
    )
