"""Where the recipes that come with sinkquant lie."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..errors import SinkquantError


def shipped_files() -> dict[str, Path]:
    """Every shipped YAML file by name, sorted; names with an underscore are fragments, only good for imports.

    An installed wheel has them as package data, a checkout beside the package.
    """
    packaged = Path(str(files(__package__).joinpath("shipped")))
    checkout = Path(__file__).resolve().parents[2] / "recipes"
    for folder in (packaged, checkout):
        found = {path.stem: path for path in folder.glob("*.yaml")}
        if found:
            return dict(sorted(found.items()))
    raise SinkquantError(f"the shipped recipes are missing from {packaged}: install sinkquant again.")


def shipped_recipes() -> dict[str, Path]:
    """The shipped files that are complete recipes."""
    return {name: path for name, path in shipped_files().items() if not name.startswith("_")}
