"""What `effort` changes in a recipe: keys that are set where it is set win over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .merge import merge

EFFORT: dict[str, dict[str, Any]] = {
    "fast": {"weights": {"sweeps": 0}, "tuning": {"epochs": 0}},
    "default": {},
    # Twice the text carries less damping, and one pass over it fits the text less than two over half of it.
    "best": {
        "calibration": {"sequences": 32},
        "weights": {"damping": 0.05, "sweeps": 2},
        "tuning": {"epochs": 1, "tokens": None},
    },
}


def with_effort(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` over `base`, and between them what the effort that `top` asks for stands for (an unknown one: nothing)."""
    effort = top.get("effort")
    return merge(merge(base, EFFORT.get(effort, {}) if isinstance(effort, str) else {}), top)
