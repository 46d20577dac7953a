"""Whether a loader found every tensor that a model needs, and a place for every one that it found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sinkquant.errors import SinkquantError

NAMED = 3  # names in a message


def check_complete(label: str, info: Mapping[str, Any], remedy: str, held: Collection[str] = ()) -> None:
    """Raise SinkquantError for what `info`, the loading info of transformers, says was missing, misshapen or left over.

    Tied weights and names that a model class lists as ignorable are in none of its lists. `held`: names that the caller
    fills in itself.
    """
    for name, stored, expected in sorted(info["mismatched_keys"]):
        raise SinkquantError(
            f"{label} stores {name} as {tuple(stored)} where its config.json asks for {tuple(expected)}: "
            "weights and config.json must come from the same model."
        )
    missing = sorted(set(info["missing_keys"]) - set(held))
    if missing:
        raise SinkquantError(f"{label} lacks {len(missing)} weights, {_first(missing)}: {remedy}.")
    unexpected = sorted(set(info["unexpected_keys"]))
    if unexpected:
        raise SinkquantError(
            f"{label} holds {len(unexpected)} tensors that the model has no place for, {_first(unexpected)}: "
            "without them it would be another model; give the weights that its config.json describes."
        )


def _first(names: list[str]) -> str:
    more = ", ".join(names[1:NAMED])
    return f"the first is {names[0]}" + (f" (then {more})" if more else "")
