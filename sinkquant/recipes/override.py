"""`--set a.b=c`: one key of a recipe replaced on the command line."""

from __future__ import annotations

from typing import Any

import yaml

from ..errors import UsageError


def parse_override(text: str) -> dict[str, Any]:
    """`"weights.bits=4"` as `{"weights": {"bits": 4}}`; the value is YAML. Raises UsageError where it is neither."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise UsageError(f"--set takes KEY=VALUE, for example weights.bits=4, and not {text!r}.")
    try:
        node = yaml.safe_load(value)
    # PyYAML lets the ValueError of an impossible date through.
    except (yaml.YAMLError, ValueError):
        raise UsageError(f"the value in --set {text} is not YAML: close its brackets or quote it.") from None
    for part in reversed(parts):
        node = {part: node}
    return node
