"""What holds for every recipe, and the schema itself."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from sinkquant.recipes import (
    Activations,
    CalibrationSpec,
    Export,
    KVCache,
    Recipe,
    Sinks,
    Transforms,
    Weights,
    dump_recipe,
    load_recipe,
)
from sinkquant.recipes.validate import fixes, problems
from sinkquant.rounding.method import METHODS

TEXT = st.text(min_size=1, max_size=20)


def choices(section: type[BaseModel], key: str) -> st.SearchStrategy:
    return st.sampled_from(get_args(section.model_fields[key].annotation))


@st.composite
def weights(draw: st.DrawFn) -> Weights:
    bits = draw(choices(Weights, "bits"))
    return Weights(
        bits=bits,
        budget=draw(st.none() | st.floats(bits, 8, exclude_min=True)) if bits < 8 else None,
        group_size=draw(st.none() | st.integers(1, 4096)),
        symmetric=draw(st.booleans()),
        method=draw(st.sampled_from(list(METHODS))),
        clip=draw(choices(Weights, "clip")),
        damping=draw(st.floats(1e-6, 1)),
        act_order=draw(st.booleans()),
        head_bits=draw(choices(Weights, "head_bits")),
        embedding_bits=draw(choices(Weights, "embedding_bits")),
        limit=draw(st.none() | st.integers(1, 127)) if bits == 8 else None,
    )


@st.composite
def transforms(draw: st.DrawFn) -> Transforms:
    fold_norms = draw(st.booleans())
    r1 = fold_norms and draw(st.booleans())
    r2, r3, r4 = (draw(st.booleans()) for _ in range(3))
    return Transforms(fold_norms=fold_norms, r1=r1, r2=r2, r3=r3, r4=r4, seed=draw(st.integers(0, 2**31)))


SINKS = st.builds(
    Sinks,
    prefix=st.sampled_from(["auto", "none"]) | st.lists(st.integers(0, 300_000), min_size=1, max_size=16).map(tuple),
    max_prefix=st.integers(1, 16),
    exclude=st.booleans(),
)
ACTIVATIONS = st.builds(
    Activations,
    bits=choices(Activations, "bits"),
    mode=choices(Activations, "mode"),
    symmetric=st.booleans(),
    clip=choices(Activations, "clip"),
)
KV_CACHE = st.builds(KVCache, bits=choices(KVCache, "bits"), recent=st.integers(0, 4096))
CALIBRATION = st.builds(
    CalibrationSpec,
    source=TEXT,
    column=st.none() | TEXT,
    sequences=st.integers(1, 10_000),
    length=st.integers(16, 10_000),
    seed=st.integers(0, 2**31),
    bos=choices(CalibrationSpec, "bos"),
)
EXPORT = st.builds(Export, dtype=choices(Export, "dtype"), shard_size=st.sampled_from(["5GB", "200MB", "1KB"]))

SINK_AWARE = st.builds(
    Recipe,
    name=TEXT,
    description=TEXT,
    target=st.just("sink-aware"),
    effort=choices(Recipe, "effort"),
    sinks=SINKS,
    transforms=transforms(),
    weights=weights(),
    activations=ACTIVATIONS,
    kv_cache=KV_CACHE,
    calibration=CALIBRATION,
    export=EXPORT,
)


def made_portable(recipe: Recipe) -> Recipe:
    """`recipe` with exactly the changes that its own error message asks for."""
    data = recipe.model_dump() | {"target": "portable"}
    for key, value in fixes(recipe, "portable").items():
        section, name = key.split(".")
        data[section] = data[section] | {name: value}
    if data["weights"]["bits"] != 8:
        data["weights"]["limit"] = None
    return Recipe.model_validate(data)


RECIPES = SINK_AWARE | SINK_AWARE.map(made_portable)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RECIPES)
def test_yaml_keeps_every_recipe(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "any.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert load_recipe(path).digest() == recipe.digest()


@settings(deadline=None)
@given(SINK_AWARE)
def test_the_changes_asked_for_make_any_recipe_portable(recipe: Recipe) -> None:
    assert problems(made_portable(recipe)) == ()


def test_digest_is_the_hash_of_canonical_json() -> None:
    recipe = load_recipe("w8a8")
    text = (
        '{"activations":{"bits":8,"center":false,"clip":"mse","mode":"dynamic","route":null,"symmetric":true},'
        '"calibration":{"bos":"auto","length":1024,"seed":0,"sequences":16,"source":"python-docs"},'
        '"description":"Portable int8 with activation scales found for each token; needs no calibration.",'
        '"effort":"default","export":{"dtype":"auto","shard_size":"5GB"},"kv_cache":{"balance":false,"bits":16,"recent":0},'
        '"name":"w8a8","sinks":{"exclude":true,"max_prefix":4,"prefix":"none"},"target":"portable",'
        '"transforms":{"fold_norms":true,"inputs":false,"r1":true,"r2":true,"r3":false,"r4":false,"seed":0,"smooth":false},'
        '"tuning":{"epochs":0,"length":512,"rate":0.002,"tokens":null},'
        '"weights":{"act_order":true,"bits":8,"clip":"mse","damping":0.01,'
        '"embedding_bits":16,"group_size":null,"head_bits":16,"limit":null,"method":"rtn","sweeps":0,"symmetric":true}}'
    )
    assert recipe.digest() == hashlib.sha256(text.encode()).hexdigest()


def test_digest_changes_with_any_value() -> None:
    variants: list[list[str]] = [[], ["weights.damping=0.02"], ["effort=best"], ["weights.budget=5"]]
    variants += [["calibration.column=body"]]
    assert len({load_recipe("w4a16", overrides).digest() for overrides in variants}) == 5


def test_a_recipe_is_frozen_and_hashable() -> None:
    recipe = load_recipe("kv4")
    with pytest.raises(ValidationError):
        recipe.kv_cache.bits = 8  # type: ignore[misc]
    assert hash(recipe) == hash(load_recipe("kv4"))


def all_models(model: type[BaseModel]) -> list[type[BaseModel]]:
    sections = [field.annotation for field in model.model_fields.values()]
    return [model, *(section for section in sections if isinstance(section, type) and issubclass(section, BaseModel))]


def test_every_key_is_described() -> None:
    models = all_models(Recipe)
    assert len(models) == 11
    assert all(field.description for model in models for field in model.model_fields.values())


def test_importing_recipes_imports_nothing_heavy() -> None:
    code = "import sys, sinkquant.recipes; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
