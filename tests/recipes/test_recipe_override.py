from __future__ import annotations

import pytest

from sinkquant.errors import UsageError
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


@pytest.mark.parametrize("text", ["weights.bits", "", "=4", "weights.=4", ".bits=4"])
def test_no_key_and_value(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_override(text)
    assert str(caught.value) == f"--set takes KEY=VALUE, for example weights.bits=4, and not {text!r}."


@pytest.mark.parametrize("text", ["sinks.prefix=[0, 1", "name=2020-99-99", "name=*other"])
def test_a_value_that_is_no_yaml(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_override(text)
    assert str(caught.value) == f"the value in --set {text} is not YAML: close its brackets or quote it."
