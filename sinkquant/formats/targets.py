"""The targets of config groups: exact names, patterns, and the class that stands for every other linear."""

from __future__ import annotations

import re
from collections.abc import Collection

CLASS, PATTERN = "Linear", "re:"


def target_of(name: str, targets: Collection[str]) -> str:
    """Which of `targets` the linear `name` belongs to: itself, a pattern, else the class."""
    if name in targets:
        return name
    patterns = (target for target in targets if target.startswith(PATTERN))
    return next((t for t in patterns if re.match(t.removeprefix(PATTERN), name)), CLASS)
