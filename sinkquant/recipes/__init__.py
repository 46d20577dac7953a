"""Recipes: what to do to a model, as frozen data that is read from YAML files importing each other."""

from __future__ import annotations

from .load import list_recipes, load_recipe, overridden, parse_recipe, resolve_text
from .schema import Activations, CalibrationSpec, Export, KVCache, Proof, Recipe, Sinks, Transforms, Weights
from .yaml_file import dump_recipe

__all__ = [
    "Activations",
    "CalibrationSpec",
    "Export",
    "KVCache",
    "Proof",
    "Recipe",
    "Sinks",
    "Transforms",
    "Weights",
    "dump_recipe",
    "list_recipes",
    "load_recipe",
    "overridden",
    "parse_recipe",
    "resolve_text",
]
