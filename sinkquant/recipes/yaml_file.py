"""A recipe as YAML: a file to a mapping, and a recipe to text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError
from .schema import Recipe


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file `path`; raises UsageError where it cannot be read or is something else."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError:
        raise UsageError(
            f"there is no recipe file {path}: give the path of a YAML file, or a name that `sinkquant recipes` lists."
        ) from None
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise UsageError(f"the recipe file {path} cannot be read ({reason}): give a readable YAML file.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path} is not valid YAML at line {line} ({error.problem}): correct that line.") from None
    # Wrong encoding, characters that YAML forbids, impossible dates: none of these knows its line.
    except (yaml.YAMLError, ValueError):
        raise UsageError(f"{path} is no YAML text: give a recipe file in UTF-8.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no recipe: write its sections as `key: value` lines.")
    return content


def dump_recipe(recipe: Recipe) -> str:
    """`recipe` as YAML with every key spelt out; loading it gives the same recipe."""
    # ASCII, because YAML reads some unescaped Unicode characters, such as U+0085, as line ends.
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=120)


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence, which would lose a whole section."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
