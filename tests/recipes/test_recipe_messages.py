"""What pydantic refuses, message by message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from sinkquant.errors import UsageError
from sinkquant.recipes import Recipe, load_recipe, parse_recipe

TOP = (
    "activations, calibration, description, effort, export, kv_cache, name, parts, proof, sinks, target, transforms, "
    "tuning, weights"
)

VALUES = [
    ("weights.bits=5", "weights.bits is 5 but must be 2, 3, 4, 8 or 16."),
    ("weights.bits.x=4", "weights.bits is {'x': 4} but must be 2, 3, 4, 8 or 16."),
    ("kv_cache.bits=", "kv_cache.bits is null but must be 2, 4, 8 or 16."),
    ("transforms.r2=1", "transforms.r2 is 1 but must be true or false."),
    ("sinks.max_prefix=20", "sinks.max_prefix is 20 but must be a whole number of at least 1 and at most 16."),
    ("sinks.max_prefix=true", "sinks.max_prefix is true but must be a whole number of at least 1 and at most 16."),
    ("kv_cache.recent=-1", "kv_cache.recent is -1 but must be a whole number of at least 0 and at most 1048576."),
    *(
        (
            f"weights.group_size={size}",
            f"weights.group_size is {size} but must be a whole number of at least 1 and at most 1048576 or null.",
        )
        for size in (0, "none")
    ),
    ("weights.limit=128", "weights.limit is 128 but must be a whole number of at least 1 and at most 127 or null."),
    ("weights.budget=9", "weights.budget is 9 but must be a number above 2 and at most 8 or null."),
    ("weights.damping=0", "weights.damping is 0 but must be a number of at least 1e-06 and at most 1."),
    ("weights.damping=.nan", "weights.damping is nan but must be a number of at least 1e-06 and at most 1."),
    ("weights.damping=1.0e-300", "weights.damping is 1e-300 but must be a number of at least 1e-06 and at most 1."),
    ("calibration.length=4", "calibration.length is 4 but must be a whole number of at least 16 and at most 1048576."),
    ("export.shard_size=five", "export.shard_size is five but must be text such as 5GB."),
    ("calibration.source=3", "calibration.source is 3 but must be text that is not empty."),
    ("calibration.source=''", "calibration.source is '' but must be text that is not empty."),
    (
        "weights=4",
        "weights is 4 but must be a section with the keys bits, budget, group_size, symmetric, method, clip, damping, "
        "sweeps, act_order, head_bits, embedding_bits, super_experts and limit.",
    ),
    *(
        (
            f"sinks.prefix={prefix}",
            f"sinks.prefix is {prefix} but must be auto, none or a list of 1 to 16 entries, "
            "each a whole number of at least 0 and at most 2147483647.",
        )
        for prefix in ("bos", "3", "[]", "[-1]", "[0, 1.5]")
    ),
    ("weights.method=gtpq", "unknown weights.method 'gtpq': did you mean 'gptq'? choose one of gptq, rtn."),
    ("target=vllm", "unknown target 'vllm': choose one of portable, sink-aware."),
    (
        "kv_cache.bit=4",
        "unknown recipe key 'kv_cache.bit': did you mean 'kv_cache.bits'? "
        "choose one of kv_cache.balance, kv_cache.bits, kv_cache.recent.",
    ),
    ("kvcache.bits=4", f"unknown recipe key 'kvcache': did you mean 'kv_cache'? choose one of {TOP}."),
]


@pytest.mark.parametrize(("override", "message"), VALUES)
def test_a_refused_value_lists_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("w4a4kv4", [override])
    assert str(caught.value) == message


def numbers(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The dotted key of every number of a recipe."""
    for name, schema in model.model_json_schema()["properties"].items():
        section = model.model_fields[name].annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from numbers(section, f"{name}.")
        elif any(branch.get("type") in ("integer", "number") for branch in (schema, *schema.get("anyOf", ()))):
            yield path + name


def test_the_numbers_are_found() -> None:
    assert {"weights.damping", "weights.limit", "transforms.seed", "weights.bits"} <= {*numbers(Recipe)}


@pytest.mark.parametrize("key", [*numbers(Recipe)])
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-1", "1.0e-300", "1.0e300", str(2**64), "9" * 5000])
def test_every_number_has_bounds(key: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"^({key} is .* but must be |the value in --set {key}=9)") as caught:
        load_recipe("w4a4kv4", [f"{key}={value}"])
    assert len(str(caught.value)) < 400


def test_several_errors_are_counted() -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("w8a8", ["weights.bits=5", "sinks.prefix=bos", "activations.bits=5"])
    assert str(caught.value).endswith("each a whole number of at least 0 and at most 2147483647 (and 2 more).")


def test_a_misspelt_section_comes_before_the_section_that_it_leaves_missing() -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe({"name": "mine", "description": "mine", "target": "portable", "transform": {}})
    assert str(caught.value) == (
        f"unknown recipe key 'transform': did you mean 'transforms'? choose one of {TOP} (and 1 more)."
    )


def test_a_missing_key() -> None:
    data = load_recipe("kv4").model_dump()
    del data["transforms"]["r3"]
    with pytest.raises(UsageError) as caught:
        parse_recipe(data)
    assert str(caught.value) == "the recipe lacks transforms.r3: add it, or import a shipped recipe that has it."


def test_a_key_that_is_no_text() -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe(load_recipe("kv4").model_dump() | {16: "bits"})
    assert str(caught.value) == f"unknown recipe key '16': choose one of {TOP}."


def test_something_else_than_a_mapping() -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe(["w8a8"])
    assert str(caught.value) == (
        "a recipe is ['w8a8'] but must be a mapping of name, description, target, effort, sinks, transforms, parts, "
        "weights, activations, kv_cache, tuning, calibration, proof and export."
    )
