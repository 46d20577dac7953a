"""A recipe as YAML: a file to a mapping, and a recipe to text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError
from .schema import Recipe

LARGEST = 10**6  # bytes; all keys of a recipe, spelt out and explained, take ten thousand


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file `path`; raises UsageError where it cannot be read or is something else."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)  # a device never ends
        if len(data) > LARGEST:
            raise UsageError(f"{path} holds more than {LARGEST} bytes, which no recipe does: give another file.")
        content = read_yaml(data.decode("utf-8-sig"))
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
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply: a recipe has sections, and keys in them.") from None
    # Wrong encoding, characters that YAML forbids, impossible dates: none of these knows its line.
    except (yaml.YAMLError, ValueError):
        raise UsageError(f"{path} is no YAML text: give a recipe file in UTF-8.") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds no recipe: write its sections as `key: value` lines.")
    return content


def read_yaml(text: str) -> Any:
    """The one document in `text`, with no key twice in a mapping and no aliases; raises what PyYAML raises.

    That is YAMLError, ValueError for an impossible date, and RecursionError for what is nested a few hundred deep.
    """
    return yaml.load(text, _Plain)


def dump_recipe(recipe: Recipe) -> str:
    """`recipe` as YAML with every key spelt out; loading it gives the same recipe."""
    # ASCII, because YAML reads some unescaped Unicode characters, such as U+0085, as line ends.
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=120)


class _Plain(yaml.SafeLoader):
    """YAML without two things: PyYAML keeps the last of two equal keys in silence, which would lose a whole section,
    and aliases can make a few lines stand for more than fits in memory."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"the alias *{event.anchor} is not read here, write out what it stands for"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} appears twice", key.start_mark)
            seen.add(key.value)
            key.tag = self.DEFAULT_SCALAR_TAG  # a key is its text: `no` and 2020-01-01 are no other things here
        return super().construct_mapping(node, deep)
