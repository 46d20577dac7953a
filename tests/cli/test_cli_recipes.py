"""`sinkquant recipes`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from sinkquant.recipes import Recipe, list_recipes, load_recipe

Cli = Callable[..., Any]


def test_every_shipped_recipe_is_listed(cli: Cli) -> None:
    result = cli("recipes")
    assert result.exit_code == 0
    for recipe in list_recipes():
        assert recipe.name in result.stdout.split()


def test_a_recipe_in_full_loads_again(cli: Cli, tmp_path: Path) -> None:
    result = cli("recipes", "w4a16")
    assert yaml.safe_load(result.stdout)["weights"]["method"] == "gptq"
    copy = tmp_path / "copy.yaml"
    copy.write_text(result.stdout)
    assert load_recipe(copy) == load_recipe("w4a16")


def test_json_is_one_object(cli: Cli) -> None:
    one = json.loads(cli("recipes", "kv4", "--json").stdout)
    assert Recipe.model_validate_json(json.dumps(one)) == load_recipe("kv4")
    listed = json.loads(cli("recipes", "--json").stdout)
    assert [recipe["name"] for recipe in listed["recipes"]] == [recipe.name for recipe in list_recipes()]
