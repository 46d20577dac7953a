"""Conversations: the ways in which files write them, as one list of turns, and that list as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = list[dict[str, str]]  # each with role and content

ROLES = {
    "human": "user", "prompter": "user",
    "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "ai": "assistant", "model": "assistant",
}  # fmt: skip
_WHO = ("role", "from", "speaker")
_WHAT = ("content", "value", "text")


class TemplateRefused(Exception):
    """The chat template does not take these turns; the message is the template's."""


def turns(value: object) -> Turns | None:
    """A list of messages (role and content, or from and value), or of strings that take turns, as turns.

    Columns instead of messages ({"from": [...], "value": [...]}) are taken as well, and either as JSON in a string.
    None for everything else. Messages without text are left out.
    """
    if isinstance(value, str):
        value = _from_json(value)
    if isinstance(value, Mapping):
        value = _as_messages(value)
    if not isinstance(value, list) or not value:
        return None
    if all(isinstance(entry, str) for entry in value):
        value = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(value)]
    if not all(isinstance(entry, Mapping) and _is_message(entry) for entry in value):
        return None
    made = [{"role": _role(entry), "content": content(_first(entry, _WHAT))} for entry in value]
    return [turn for turn in made if turn["content"].strip()]


def content(value: object) -> str:
    """What a message says: a string, or a list of parts of which those with text count."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in value]
    return "\n\n".join(part for part in parts if isinstance(part, str))


def render(conversation: Turns, tokenizer: PreTrainedTokenizerBase) -> str:
    """The turns through the tokenizer's chat template, without its BOS; with blank lines between where it has none.

    Raises TemplateRefused.
    """
    if tokenizer.chat_template is None:
        return "\n\n".join(turn["content"] for turn in conversation)
    try:
        rendered = str(tokenizer.apply_chat_template(conversation, tokenize=False))
    except Exception as error:  # a template may raise anything
        raise TemplateRefused(" ".join(str(error).split()) or type(error).__name__) from error
    # The BOS policy decides about BOS, not the template.
    return rendered.removeprefix(tokenizer.bos_token or "")


def _is_message(entry: Mapping[Any, Any]) -> bool:
    return any(isinstance(entry.get(key), str) for key in _WHO)


def _role(entry: Mapping[Any, Any]) -> str:
    name = str(_first(entry, _WHO)).lower()
    return ROLES.get(name, name)


def _first(entry: Mapping[Any, Any], keys: Sequence[str]) -> object:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _from_json(text: str) -> object:
    try:
        return json.loads(text) if text.lstrip().startswith(("[{", "{")) else None
    except (ValueError, RecursionError):
        return None


def _as_messages(columns: Mapping[Any, Any]) -> list[dict[Any, Any]] | None:
    lists = list(columns.values())
    if not lists or not all(isinstance(entry, list) and len(entry) == len(lists[0]) for entry in lists):
        return None
    return [dict(zip(columns, entry, strict=True)) for entry in zip(*lists, strict=True)]
