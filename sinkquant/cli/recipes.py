"""`sinkquant recipes`: what the shipped recipes do."""

from __future__ import annotations

from typing import Annotated

import typer

from sinkquant.cli.options import Json


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="A recipe to print in full, imports resolved.")
    ] = None,
    json: Json = False,
) -> None:
    """List the shipped recipes, or print one in full."""
    from sinkquant.cli.console import say
    from sinkquant.cli.output import print_json, show
    from sinkquant.recipes import dump_recipe, list_recipes, load_recipe
    from sinkquant.report.table import rows

    if name is not None:
        recipe = load_recipe(name)
        if json:
            print_json(recipe)
        else:
            say(dump_recipe(recipe), end="")
    elif json:
        print_json({"recipes": list_recipes()})
    else:
        listed = [(recipe.name, recipe.target, recipe.description) for recipe in list_recipes()]
        show(rows("Shipped recipes", ("name", "checkpoint", "what for"), listed))
