"""pydantic's errors as one sentence, with the allowed values read from the schema itself."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import UsageError, unknown


def explain(error: ValidationError, model: type[BaseModel]) -> UsageError:
    """The UsageError for what `model` refused: its first problem, and the number of the others.

    Unknown keys come first: a misspelt key is also a missing one, and only the former tells what to correct.
    """
    sentences: dict[str, tuple[bool, str]] = {}
    for detail in error.errors(include_url=False):
        owner, path = _locate(model, detail["loc"])
        is_unknown = detail["type"] in ("extra_forbidden", "invalid_key")
        # A union reports every alternative; the first one carries the whole value.
        sentences.setdefault(path, (is_unknown, _sentence(owner, path, detail["type"], detail["input"])))
    return first_of([sentence for _, sentence in sorted(sentences.values(), key=lambda item: not item[0])])


def first_of(sentences: Sequence[str]) -> UsageError:
    """The first of `sentences`, which ends with the number of the others."""
    others = len(sentences) - 1
    return UsageError(f"{sentences[0].removesuffix('.')} (and {others} more)." if others else sentences[0])


def listing(items: Sequence[str], word: str) -> str:
    """`a, b and c` for the word `and`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {word} {items[-1]}"


def show(value: object) -> str:
    """`value` as YAML writes it, cut where it is long."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return value or "''"
        case tuple():
            return reprlib.repr(list(value))
        case _:
            return reprlib.repr(value)


def _locate(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[type[BaseModel], str]:
    """The model whose field `location` points to, and the field's dotted path without pydantic's union branches."""
    owner, path = model, ""
    for part in location:
        path = f"{path}.{part}" if path else str(part)
        field = owner.model_fields.get(str(part))
        section = field.annotation if field else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)) or part == location[-1]:
            break
        owner = section
    return owner, path


def _sentence(owner: type[BaseModel], path: str, kind: str, value: object) -> str:
    if not path:
        return f"a recipe is {show(value)} but must be a mapping of {_keys(owner)}."
    section, _, key = path.rpartition(".")
    if kind in ("extra_forbidden", "invalid_key"):
        return str(unknown("recipe key", path, [f"{section}.{name}".strip(".") for name in owner.model_fields]))
    if kind == "missing":
        return f"the recipe lacks {path}: add it, or import a shipped recipe that has it."
    section_model = owner.model_fields[key].annotation
    if isinstance(section_model, type) and issubclass(section_model, BaseModel):
        return f"{path} is {show(value)} but must be a section with the keys {_keys(section_model)}."
    schema = owner.model_json_schema()["properties"][key]
    if isinstance(value, str) and schema.get("type") == "string" and "enum" in schema:
        return str(unknown(path, value, schema["enum"]))
    return f"{path} is {show(value)} but must be {listing(_allowed(schema), 'or')}."


def _keys(model: type[BaseModel]) -> str:
    return listing(list(model.model_fields), "and")


def _allowed(schema: dict[str, Any]) -> list[str]:
    """The alternatives that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return [words for branch in schema["anyOf"] for words in _allowed(branch)]
    if "enum" in schema:
        return [str(value) for value in schema["enum"]]
    match schema["type"]:
        case "boolean":
            return ["true", "false"]
        case "null":
            return ["null"]
        case "array":
            item = _allowed(schema["items"])[0]
            return [f"a list of {schema['minItems']} to {schema['maxItems']} entries, each {item}"]
        case "string":
            return [f"text such as {schema['examples'][0]}" if "examples" in schema else "text that is not empty"]
        case kind:
            return [("a whole number" if kind == "integer" else "a number") + _bounds(schema)]


def _bounds(schema: dict[str, Any]) -> str:
    words = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "at most"}
    bounds = [f"{word} {schema[key]}" for key, word in words.items() if key in schema]
    return f" {' and '.join(bounds)}" if bounds else ""
