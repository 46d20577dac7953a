"""What the sections of a recipe ask of each other, one sentence with the remedy for each contradiction."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from ..formats.format import FORMATS
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
        _super_experts_without_room(recipe),
        _super_experts_without_detection(recipe),
        _own_without_static(recipe),
        _not_held(recipe),
    )
    return tuple(sentence for sentence in found if sentence)


def fixes(recipe: Recipe, target: str) -> dict[str, object]:
    """The keys that the format `target` cannot hold in `recipe`, each with the value that it can."""
    needs = FORMATS[target].needs(recipe)
    return {key: value for key, value in needs.items() if attrgetter(key)(recipe) != value}


def _not_held(recipe: Recipe) -> str | None:
    asked = fixes(recipe, recipe.target)
    if not asked:
        return None
    forbidden = listing([f"{key}={show(attrgetter(key)(recipe))}" for key in asked], "or")
    remedy = listing([f"{key}={show(value)}" for key, value in asked.items()], "and")
    others = "".join(f", or target={name}" for name in FORMATS if not fixes(recipe, name))
    held = FORMATS[recipe.target].holds
    return f"a {recipe.target} recipe ({held}) cannot have {forbidden}: set {remedy}{others}."


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


def _super_experts_without_room(recipe: Recipe) -> str | None:
    asked, bits = recipe.weights.super_experts, recipe.weights.bits
    if asked is not None and recipe.weights.budget is not None:
        return (
            "weights.budget raises what the measured loss asks for, super experts or others: "
            "set weights.budget=null or weights.super_experts=null."
        )
    if asked is None or bits < asked:
        return None
    remedy = "to null" if bits == 16 else f"above {bits}, or to null"
    return f"weights.super_experts is {asked} but weights.bits is {bits} already: set weights.super_experts {remedy}."


def _super_experts_without_detection(recipe: Recipe) -> str | None:
    if recipe.weights.super_experts is None or recipe.sinks.prefix == "auto" or recipe.sinks.exclude:
        return None
    return (
        "weights.super_experts needs detection, which sinks.exclude=false leaves out beside such a sinks.prefix: "
        "set sinks.exclude=true or weights.super_experts=null."
    )


def _own_without_static(recipe: Recipe) -> str | None:
    inputs = recipe.activations
    if inputs.modality != "own" or (inputs.bits < 16 and inputs.mode == "static"):
        return None
    given = "not rounded" if inputs.bits == 16 else "dynamic, a range a token"
    return f"activations.modality=own is for static inputs but inputs are {given}: set activations.modality=auto."
