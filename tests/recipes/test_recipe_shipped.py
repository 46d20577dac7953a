"""The recipes that ship: which there are, what they decide, and that an installed wheel finds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sinkquant.recipes import list_recipes, load_recipe

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_list() -> None:
    assert [recipe.name for recipe in list_recipes()] == [
        "kv4",
        "w4a16",
        "w4a4kv4",
        "w4a8kv4",
        "w8a8",
        "w8a8-npu",
        "w8a8-static",
    ]


def test_descriptions_are_one_line_each() -> None:
    descriptions = [recipe.description for recipe in list_recipes()]
    assert all(len(text) < 100 and "\n" not in text for text in descriptions)
    assert len(set(descriptions)) == len(descriptions)


def test_names_tell_the_bits() -> None:
    bits = {
        recipe.name: (recipe.weights.bits, recipe.activations.bits, recipe.kv_cache.bits) for recipe in list_recipes()
    }
    assert bits == {
        "kv4": (16, 16, 4),
        "w4a16": (4, 16, 16),
        "w4a4kv4": (4, 4, 4),
        "w4a8kv4": (4, 8, 4),
        "w8a8": (8, 8, 16),
        "w8a8-npu": (8, 8, 16),
        "w8a8-static": (8, 8, 16),
    }


def test_targets_and_modes() -> None:
    assert {recipe.name for recipe in list_recipes() if recipe.target == "portable"} == {"w4a16", "w8a8"}
    static = {recipe.name for recipe in list_recipes() if recipe.activations.mode == "static"}
    assert static == {"w4a4kv4", "w4a8kv4", "w8a8-npu", "w8a8-static"}
    assert {recipe.name for recipe in list_recipes() if recipe.weights.method == "gptq"} == {
        "w4a16",
        "w4a4kv4",
        "w4a8kv4",
    }
    assert load_recipe("w4a16").weights.group_size == 128


def test_the_naive_counterpart_is_a_matter_of_overrides() -> None:
    overrides = ["sinks={prefix: none, exclude: false}"]
    overrides += [f"transforms.{key}=false" for key in ("fold_norms", "r1", "r2", "r3", "r4")]
    naive = load_recipe("w8a8-static", overrides)
    assert naive.sinks.prefix == "none"
    assert naive.weights == load_recipe("w8a8-static").weights


def run_installed(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    # -P keeps the checkout, which is the current folder, off the path.
    return subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def copy_package(site: Path) -> None:
    shutil.copytree(CHECKOUT / "sinkquant", site / "sinkquant", ignore=shutil.ignore_patterns("__pycache__", "shipped"))


def test_an_installed_wheel_finds_them_as_package_data(tmp_path: Path) -> None:
    copy_package(tmp_path)
    shutil.copytree(CHECKOUT / "recipes", tmp_path / "sinkquant" / "recipes" / "shipped")
    code = "import sinkquant.recipes as r; print(r.__file__, len(r.list_recipes()))"
    done = run_installed(tmp_path, code)
    assert done.stdout.split() == [str(tmp_path / "sinkquant" / "recipes" / "__init__.py"), "7"], done.stderr


def test_a_broken_installation_says_so(tmp_path: Path) -> None:
    copy_package(tmp_path)
    code = """
import sinkquant.recipes as r
from sinkquant.errors import SinkquantError
try: r.list_recipes()
except SinkquantError as error: print(error)
"""
    folder = tmp_path / "sinkquant" / "recipes" / "shipped"
    assert run_installed(tmp_path, code).stdout.strip() == (
        f"the shipped recipes are missing from {folder}: install sinkquant again."
    )
