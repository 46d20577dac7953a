"""What sections ask of each other, message by message."""

from __future__ import annotations

import pytest

from sinkquant.errors import UsageError
from sinkquant.recipes import Recipe, Transforms, load_recipe

PORTABLE = "a portable recipe (symmetric W4A16, or symmetric W8A8 with one scale a channel) cannot have"

CONTRADICTIONS = [
    ("w8a8", ["sinks.prefix=auto"], "sinks.prefix=auto: set sinks.prefix=none"),
    ("w8a8", ["sinks.prefix=[0, 17]"], "sinks.prefix=[0, 17]: set sinks.prefix=none"),
    ("w8a8", ["transforms.r3=true"], "transforms.r3=true: set transforms.r3=false"),
    ("w8a8", ["transforms.r4=true"], "transforms.r4=true: set transforms.r4=false"),
    ("w8a8", ["kv_cache.bits=4"], "kv_cache.bits=4: set kv_cache.bits=16"),
    ("w8a8", ["weights.head_bits=8"], "weights.head_bits=8: set weights.head_bits=16"),
    ("w8a8", ["weights.embedding_bits=8"], "weights.embedding_bits=8: set weights.embedding_bits=16"),
    ("w8a8", ["weights.group_size=128"], "weights.group_size=128: set weights.group_size=null"),
    ("w8a8", ["weights.symmetric=false"], "weights.symmetric=false: set weights.symmetric=true"),
    ("w8a8", ["activations.symmetric=false"], "activations.symmetric=false: set activations.symmetric=true"),
    ("w8a8", ["activations.spikes=2"], "activations.spikes=2: set activations.spikes=0"),
    ("w8a8", ["activations.spikes=auto"], "activations.spikes=auto: set activations.spikes=0"),
    ("w8a8", ["weights.bits=4"], "weights.bits=4: set weights.bits=8"),
    ("w8a8", ["activations.bits=16"], "activations.bits=16: set activations.bits=8"),
    ("w8a8", ["activations={bits: 4, mode: static}"], "activations.bits=4: set activations.bits=8"),
    ("w4a16", ["weights.super_experts=8"], "weights.super_experts=8: set weights.super_experts=null"),
    ("w4a16", ["weights.bits=3"], "weights.bits=3: set weights.bits=4"),
    ("w4a16", ["weights.bits=16"], "weights.bits=16: set weights.bits=4"),
    ("w4a16", ["weights.symmetric=false"], "weights.symmetric=false: set weights.symmetric=true"),
    (
        "kv4",
        ["target=portable"],
        "sinks.prefix=auto, transforms.r3=true, kv_cache.bits=4, kv_cache.balance=true or "
        "weights.bits=16: "
        "set sinks.prefix=none, transforms.r3=false, kv_cache.bits=16, kv_cache.balance=false and "
        "weights.bits=4",
    ),
]


@pytest.mark.parametrize(("name", "overrides", "message"), CONTRADICTIONS)
def test_portable_recipes_say_what_to_drop(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(name, overrides)
    assert str(caught.value) == f"{PORTABLE} {message}, or target=sink-aware."


@pytest.mark.parametrize(("name", "overrides", "message"), CONTRADICTIONS)
def test_target_sink_aware_is_a_remedy(name: str, overrides: list[str], message: str) -> None:
    assert load_recipe(name, [*overrides, "target=sink-aware"]).target == "sink-aware"


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("w8a8", ["activations.mode=static"]),
        ("w8a8", ["weights.limit=63"]),
        ("w4a16", ["weights.group_size=null"]),
        ("w4a16", ["weights.budget=5"]),
        ("w4a16", ["transforms={fold_norms: false, r1: false, r2: false}"]),
        ("w4a4kv4", ["sinks.prefix=none", "sinks.exclude=false"]),
        ("w4a4kv4", ["weights.super_experts=16", "sinks.prefix=none"]),
        ("w4a4kv4", ["weights.super_experts=4", "weights.bits=3"]),
    ],
)
def test_what_is_allowed(name: str, overrides: list[str]) -> None:
    assert load_recipe(name, overrides).name == name


def test_r1_needs_folded_norms() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("w8a8", ["transforms.fold_norms=false"])
    assert str(caught.value) == (
        "transforms.r1 needs folded norms: set transforms.fold_norms=true or transforms.r1=false."
    )


def test_a_limit_needs_int8_weights() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("w4a8kv4", ["weights.limit=63"])
    assert str(caught.value) == (
        "weights.limit is for 8-bit weights but weights.bits is 4: set weights.limit=null or weights.bits=8."
    )


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "w8a8",
            ["weights.budget=8"],
            "weights.budget raises some linears to 8 bits but weights.bits is 8: "
            "set weights.budget=null or weights.bits=4 (and 1 more).",
        ),
        (
            "w4a8kv4",
            ["weights.budget=4"],
            "weights.budget is 4 but weights.bits is 4 already: set weights.budget above 4 and at most 8, or to null.",
        ),
    ],
)
def test_a_budget_needs_room(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(name, overrides)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "w8a8-static",
            ["weights.super_experts=8"],
            "weights.super_experts is 8 but weights.bits is 8 already: set weights.super_experts above 8, or to null.",
        ),
        (
            "kv4",
            ["weights.super_experts=16"],
            "weights.super_experts is 16 but weights.bits is 16 already: set weights.super_experts to null.",
        ),
        (
            "w4a8kv4",
            ["weights.super_experts=8", "weights.budget=5"],
            "weights.budget raises what the measured loss asks for, super experts or others: "
            "set weights.budget=null or weights.super_experts=null.",
        ),
        (
            "w4a8kv4",
            ["weights.super_experts=8", "sinks.prefix=[1]", "sinks.exclude=false"],
            "weights.super_experts needs detection, which sinks.exclude=false leaves out beside such a sinks.prefix: "
            "set sinks.exclude=true or weights.super_experts=null.",
        ),
    ],
)
def test_super_experts_need_room_and_detection(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe(name, overrides)
    assert str(caught.value) == message


def test_several_contradictions_are_counted() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("w4a16", ["transforms.fold_norms=false", "weights.limit=63", "transforms.r4=true"])
    assert str(caught.value) == (
        "transforms.r1 needs folded norms: set transforms.fold_norms=true or transforms.r1=false (and 2 more)."
    )


def test_a_recipe_built_in_python_is_checked_too() -> None:
    transforms = Transforms(fold_norms=False, r1=False, r2=True, r3=False, r4=False)
    with pytest.raises(UsageError) as caught:
        Recipe(name="mine", description="mine", target="portable", transforms=transforms)
    assert str(caught.value) == (
        f"{PORTABLE} sinks.prefix=auto or weights.bits=16: set sinks.prefix=none and weights.bits=4, "
        "or target=sink-aware."
    )
