"""What a recipe says of the parts of a model: towers, what joins them to the language model, and that itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from sinkquant.errors import UsageError
from sinkquant.formats.format import FORMATS
from sinkquant.models.roles import CONNECTOR, Roles
from sinkquant.recipes.load import overridden
from sinkquant.recipes.schema import Activations, KVCache, Parts, Recipe, Weights

Wish = Literal["recipe", "int8", "float"]


def recipes_of(recipe: Recipe, roles: Roles, *, prefix: bool) -> dict[str, Recipe]:
    """By stack, and for CONNECTOR, what is done there. `prefix`: whether text has one, where the model can.

    Raises UsageError where nothing would be left to do.
    """
    alone = _without_prefix(recipe)  # towers have no prefix: sinks stay where they are
    wishes = dict(_wishes(recipe.parts, roles))
    if all(wish == "float" for wish in wishes.values()):
        raise UsageError(
            "nothing would be quantized: the recipe leaves all parts in float; set one of parts to recipe."
        )
    held = roles.text.name if roles.text is not None and prefix else None
    return {part: _wished(recipe if part == held else alone, wish) for part, wish in wishes.items()}


def _wishes(parts: Parts, roles: Roles) -> Iterator[tuple[str, Wish]]:
    towers = {stack.name for stack in roles.towers}
    for stack in roles.stacks:
        yield stack.name, parts.towers if stack.name in towers else parts.language
    if roles.bridges:
        yield CONNECTOR, parts.connector


def _without_prefix(recipe: Recipe) -> Recipe:
    """The recipe for rows that have no prefix: sinks stay among them, so static ranges need another remedy."""
    inputs = recipe.activations
    static = inputs.bits < 16 and inputs.mode == "static"
    asked = "spikes" in inputs.model_fields_set
    if recipe.sinks.prefix == "none" or not static or asked or not FORMATS[recipe.target].ours:
        return recipe
    return overridden(recipe, ["activations.spikes=auto"])


def _wished(recipe: Recipe, wish: Wish) -> Recipe:
    """The recipe of a part, which is a plan's affair and need not be one that a format could hold alone."""
    if wish == "recipe":
        return recipe
    if wish == "float":
        return _with(recipe, weights=Weights(), activations=Activations(), kv_cache=KVCache())
    weights = recipe.weights.model_copy(update={"bits": 8, "group_size": None, "symmetric": True, "budget": None})
    inputs = recipe.activations
    inputs = inputs.model_copy(update={"bits": 8}) if inputs.bits < 8 else inputs
    return _with(recipe, weights=weights if recipe.weights.bits < 8 else recipe.weights, activations=inputs)


def _with(recipe: Recipe, **sections: Any) -> Recipe:
    return recipe.model_copy(update=sections)


def said(recipe: Recipe, recipes: Mapping[str, Recipe], roles: Roles) -> Iterator[str]:
    """What is done where, of a model with several parts, and wishes for parts that there are none of."""
    if roles.towers:
        words = {stack.name: "language model" for stack in roles.stacks} | {s.name: "tower" for s in roles.towers}
        for part, own in recipes.items():
            what = f"{words[part]} {part}" if part in words else f"connector {', '.join(_linears(roles))}"
            yield f"{what}: {_in_words(own)}"
        return
    asked = [name for name, wish in recipe.parts if wish != "recipe" and name != "language"]
    if asked:
        yield f"parts.{asked[0]} is for models with towers in front of a language model, which this one has not"


def _linears(roles: Roles) -> list[str]:
    return [name for bridge in roles.bridges for site in bridge.sites for name in site.linears]


def _in_words(recipe: Recipe) -> str:
    weights, inputs = recipe.weights.bits, recipe.activations
    if weights == 16 and inputs.bits == 16:
        return "stays in float, as the recipe's parts say" if recipe.kv_cache.bits == 16 else "keys and values alone"
    made = "weights in float" if weights == 16 else f"{weights}-bit weights"
    return made + (", inputs in float" if inputs.bits == 16 else f", {inputs.bits}-bit {inputs.mode} inputs")
