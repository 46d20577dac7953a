"""`--set a.b=c`: one key of a recipe replaced on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from ..errors import UsageError
from .merge import merge
from .yaml_file import read_yaml

DEEPEST = 8  # names in a key; recipes have two


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """All of `texts` as one mapping, later ones over earlier ones; raises UsageError as `parse_override` does."""
    wanted: dict[str, Any] = {}
    for text in texts:
        wanted = merge(wanted, parse_override(text))
    return wanted


def parse_override(text: str) -> dict[str, Any]:
    """`"weights.bits=4"` as `{"weights": {"bits": 4}}`; the value is YAML. Raises UsageError where it is neither."""
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    shown = text if len(text) <= 200 else f"{text[:200]} …"
    if not equals or not all(parts) or len(parts) > DEEPEST:
        raise UsageError(f"--set takes KEY=VALUE, for example weights.bits=4, and not {shown!r}.")
    try:
        node = read_yaml(value)
    # PyYAML lets the ValueError of an impossible date through.
    except (yaml.YAMLError, ValueError):
        raise UsageError(f"the value in --set {shown} is not YAML: close its brackets or quote it.") from None
    except RecursionError:
        raise UsageError(f"the value in --set {shown} is nested too deeply: give a plain value.") from None
    for part in reversed(parts):
        node = {part: node}
    return node
