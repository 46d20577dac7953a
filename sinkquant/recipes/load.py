"""From a name or a file to a recipe: imports merged in order, overrides on top, then checked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import UsageError, unknown
from .effort import with_effort
from .merge import merge
from .messages import explain, show
from .override import parse_overrides
from .schema import Recipe
from .shipped import shipped_files, shipped_recipes
from .yaml_file import dump_recipe, read_mapping

LONGEST_CHAIN = 50  # files


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The shipped recipe of that name, or the one in that YAML file, with `overrides` such as `weights.bits=4`.

    A file without a `name` is named after itself. Raises UsageError with one sentence for whatever is wrong.
    """
    path = _locate(name_or_path, Path(), shipped_recipes(), "recipe")
    named = path.stem.encode(errors="replace").decode()  # a name that the locale cannot read holds no valid characters
    data = {"name": named} | _resolve(path, (), {})
    return parse_recipe(with_effort(data, parse_overrides(overrides)))


def overridden(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """`recipe` with `overrides` on top, checked as one that is loaded with them. Raises UsageError."""
    return parse_recipe(with_effort(recipe.model_dump(), parse_overrides(overrides)))


def list_recipes() -> tuple[Recipe, ...]:
    """The shipped recipes, sorted by name."""
    return tuple(load_recipe(name) for name in shipped_recipes())


def resolve_text(name: str | Path) -> str:
    """The recipe in full as YAML: imports resolved, every default spelt out."""
    return dump_recipe(load_recipe(name))


def parse_recipe(data: object) -> Recipe:
    """The recipe in a plain mapping; raises UsageError where pydantic would raise ValidationError."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise explain(error, Recipe) from None


def _resolve(path: Path, trail: tuple[Path, ...], known: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """The content of `path` over that of its imports.

    `trail` is the chain of files that led here; `known` keeps what is resolved, since files that import the same ones
    make the number of ways to a file double with every step.
    """
    path = Path(os.path.realpath(path))  # unlike Path.resolve, leaves a link to itself to whoever opens it
    if path in trail:
        cycle = " -> ".join(step.name for step in (*trail[trail.index(path) :], path))
        raise UsageError(f"recipes import each other in a circle, {cycle}: remove one of these imports.")
    if len(trail) >= LONGEST_CHAIN:
        raise UsageError(f"{trail[0]} imports more than {LONGEST_CHAIN} files one behind the other: shorten the chain.")
    if path in known:
        return known[path]
    own = read_mapping(path)
    imports = own.pop("imports", [])
    if not isinstance(imports, list) or not all(isinstance(entry, str) for entry in imports):
        raise UsageError(f"imports in {path} is {show(imports)} but must be a list of recipe names and paths.")
    merged: dict[str, Any] = {}
    for entry in imports:
        imported = _locate(entry, path.parent, shipped_files(), f"import in {path.name}")
        merged = merge(merged, _resolve(imported, (*trail, path), known))
    merged.pop("name", None)  # a recipe that builds on another is not that other
    known[path] = with_effort(merged, own)
    return known[path]


def _locate(reference: str | Path, folder: Path, names: Mapping[str, Path], kind: str) -> Path:
    """The file that `reference` means: a path from `folder` if it looks like one, else one of `names`."""
    if "\0" in str(reference):
        raise UsageError(f"the {kind} {str(reference)!r} holds a zero byte, which no path does: correct it.")
    as_path = Path(os.path.expanduser(reference))
    if isinstance(reference, Path) or as_path.suffix in (".yaml", ".yml") or len(as_path.parts) > 1:
        return folder / as_path
    if reference not in names:
        raise unknown(kind, reference, names)
    return names[reference]
