from __future__ import annotations

import pytest

from sinkquant.errors import UsageError
from sinkquant.recipes import load_recipe, overridden
from sinkquant.recipes.override import parse_override


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("effort=best", {"effort": "best"}),
        ("weights.bits=4", {"weights": {"bits": 4}}),
        (" weights . bits = 4 ", {"weights": {"bits": 4}}),
        ("transforms.r1=false", {"transforms": {"r1": False}}),
        ("weights.group_size=null", {"weights": {"group_size": None}}),
        ("sinks.prefix=none", {"sinks": {"prefix": "none"}}),
        ("sinks.prefix=[0, 17]", {"sinks": {"prefix": [0, 17]}}),
        ("calibration.source=datasets:a/b=c", {"calibration": {"source": "datasets:a/b=c"}}),
    ],
)
def test_the_value_is_yaml(text: str, tree: dict[str, object]) -> None:
    assert parse_override(text) == tree


@pytest.mark.parametrize("text", ["weights.bits", "", "=4", "weights.=4", ".bits=4", "a.b.c.d.e.f.g.h.i=4"])
def test_no_key_and_value(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_override(text)
    assert str(caught.value) == f"--set takes KEY=VALUE, for example weights.bits=4, and not {text!r}."


@pytest.mark.parametrize("text", ["sinks.prefix=[0, 1", "name=2020-99-99", "name=*other", "weights={bits: 4, bits: 8}"])
def test_a_value_that_is_no_yaml(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_override(text)
    assert str(caught.value) == f"the value in --set {text} is not YAML: close its brackets or quote it."


def test_a_value_nested_without_end() -> None:
    with pytest.raises(UsageError, match=r"^the value in --set sinks\.prefix=\[+ … is nested too deeply: "):
        parse_override("sinks.prefix=" + "[" * 3000 + "]" * 3000)


OVERRIDES = [
    ["weights.bits=3", "weights.bits=4"],
    ["effort=best"],
    ["tuning.epochs=3", "effort=best"],
    ["calibration={sequences: 3}", "kv_cache.bits=8"],
    [],
]


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_a_recipe_object_takes_overrides_as_its_name_does(overrides: list[str]) -> None:
    expected = load_recipe("w4a8kv4", overrides)
    assert overridden(load_recipe("w4a8kv4"), overrides) == expected
    assert overridden(expected, overrides) == expected


@pytest.mark.parametrize("override", ["weights.bits=5", "weights.bit=4", "target=portable"])
def test_overrides_of_an_object_are_checked(override: str) -> None:
    with pytest.raises(UsageError):
        overridden(load_recipe("w4a8kv4"), [override])
