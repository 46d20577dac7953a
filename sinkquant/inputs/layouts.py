"""Where the text of a row is: pure functions from a row of a data set to a text or a conversation.

Names of columns are compared in lower case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sinkquant.inputs.chat import Turns, turns
from sinkquant.inputs.language import is_language

Row = Mapping[str, Any]

CONVERSATIONS = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns")
ASKED = ("instruction", "prompt", "question", "query", "problem")
MORE = ("input", "context")  # what an instruction or a question is about
REPLIED = ("output", "response", "completion", "chosen", "answer", "answers", "solution")
SYSTEM = ("system", "system_prompt")
LIKELY = ("content", "article", "document", "body", "passage", "story", "page_content", "markdown", "code", "chosen")
DEEPEST = 8  # lists in lists


class Found(NamedTuple):
    """The columns that were read, and what they hold; nothing where they are empty in this row."""

    columns: tuple[str, ...]
    content: str | Turns


def by_name(row: Row) -> Found | None:
    """`text`, a conversation, or question and answer in their usual names; None where the row has none of them."""
    keys = {str(key).lower(): key for key in row}
    empty: Found | None = None
    for found in (_text(row, keys), _conversation(row, keys), _pair(row, keys)):
        if found is not None and found.content:
            return found
        empty = empty or found
    return empty


def talk(row: Row) -> Turns | None:
    """A conversation, or question and answer, in columns of usual names; None where there is none in this row."""
    keys = {str(key).lower(): key for key in row}
    found = (_conversation(row, keys), _pair(row, keys))
    return next(
        (one.content for one in found if one is not None and one.content and not isinstance(one.content, str)), None
    )


def in_column(row: Row, column: str) -> Found | None:
    """What `column` holds, in which a dot leads into a mapping; None where the row has no such column."""
    value: Any = row
    for part in (column,) if column in row else column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    talk = turns(value) if _has_mappings(value) else None
    return Found((column,), joined(value) if talk is None else talk)


def likely_column(rows: Sequence[Row]) -> str | None:
    """The column with the most language in `rows`; one that is named like text counts ten times."""
    sizes: dict[str, int] = {}
    for column in dict.fromkeys(key for row in rows for key in row):
        texts = [text for row in rows if (text := joined(row.get(column)))]
        if is_language(texts):
            sizes[column] = sum(map(len, texts)) * (10 if str(column).lower() in LIKELY else 1)
    best = max(sizes, key=lambda column: sizes[column], default=None)
    return best if best is not None and sizes[best] else None


def joined(value: object) -> str:
    """The strings in a string, a list or a mapping, with blank lines between, or blanks where they are single words."""
    strings = [text for text in _strings(value, DEEPEST) if text.strip()]
    words = len(strings) > 1 and not any(" " in text.strip() for text in strings)
    return (" " if words else "\n\n").join(strings)


def _text(row: Row, keys: Mapping[str, str]) -> Found | None:
    return Found((keys["text"],), joined(row[keys["text"]])) if "text" in keys else None


def _conversation(row: Row, keys: Mapping[str, str]) -> Found | None:
    for name in CONVERSATIONS:
        if name in keys and (not row[keys[name]] or turns(row[keys[name]]) is not None):
            return Found((keys[name],), turns(row[keys[name]]) or [])
    return None


def _pair(row: Row, keys: Mapping[str, str]) -> Found | None:
    asked, replied = (next((name for name in names if name in keys), None) for names in (ASKED, REPLIED))
    if asked is None or replied is None:
        return None
    system = [name for name in SYSTEM if name in keys]
    more = [name for name in MORE if name in keys] if asked != "prompt" else []
    columns = tuple(keys[name] for name in (*system, asked, *more, replied))
    answer = turns(row[keys[replied]]) if _has_mappings(row[keys[replied]]) else None
    question = turns(row[keys[asked]]) if _has_mappings(row[keys[asked]]) else None
    if question is None:
        question = [_turn("user", (row[keys[name]] for name in (asked, *more)))]
    if answer is None:
        answer = [_turn("assistant", [row[keys[replied]]])]
    if answer and answer[0]["role"] in ("user", "system"):  # the whole conversation, the question included
        question = []
    front = [_turn("system", [row[keys[name]]]) for name in system]
    return Found(columns, [turn for turn in (*front, *question, *answer) if turn["content"].strip()])


def _turn(role: str, values: Iterable[object]) -> dict[str, str]:
    return {"role": role, "content": "\n\n".join(text for value in values if (text := joined(value)))}


def _has_mappings(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, Mapping) for v in value))


def _strings(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, list | Mapping):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(entry, depth - 1)
