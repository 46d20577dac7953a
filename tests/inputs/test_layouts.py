"""Where the text of a row is: one row of a table for every way in which people write their data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sinkquant.errors import UsageError
from sinkquant.inputs.sources import open_text

from .conftest import byte_tokenizer

PROSE = "A sentence that is long enough to be told from a title."
UUID = "5feceb66-ffc8-4f38-a952-786c6d696c79"
TALK = "[user]Hi[assistant]Hello"


def chat_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "<s>{% for m in messages %}{% if m.role == 'gremlin' %}{{ raise_exception('no gremlins') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    return tokenizer


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


HI, HELLO = message("user", "Hi"), message("assistant", "Hello")
HUMAN, GPT = {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}

# (what it is, a row, its text with a chat template, the columns that are named)
ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("text", {"text": PROSE}, PROSE, "the column 'text'"),
    ("text behind ids", {"id": UUID, "url": "https://a.b/c", "text": PROSE}, PROSE, "the column 'text'"),
    ("text in capitals", {"Text": PROSE, "Summary": PROSE[:20]}, PROSE, "the column 'Text'"),
    ("text before its parts", {"instruction": "x", "output": "y", "text": PROSE}, PROSE, "the column 'text'"),
    ("paragraphs", {"text": ["One and.", ["Two or three."]]}, "One and.\n\nTwo or three.", "the column 'text'"),
    ("words", {"text": ["One", "two", "three"]}, "One two three", "the column 'text'"),
    ("null text, messages", {"text": None, "messages": [HI, HELLO]}, TALK, "the column 'messages'"),
    ("messages", {"prompt": "Hi", "messages": [HI, HELLO]}, TALK, "the column 'messages'"),
    ("parts", {"messages": [message("user", [{"type": "text", "text": "Hi"}, {"type": "image"}]), HELLO]}, TALK,
     "the column 'messages'"),
    ("messages without words", {"messages": [message("user", None), HI, HELLO]}, TALK, "the column 'messages'"),
    ("JSON in a string", {"messages": json.dumps([HI, HELLO])}, TALK, "the column 'messages'"),
    ("ShareGPT", {"id": "identity_5feceb66", "conversations": [HUMAN, GPT]}, TALK, "the column 'conversations'"),
    ("columns of messages", {"conversations": {"from": ["human", "gpt"], "value": ["Hi", "Hello"]}}, TALK,
     "the column 'conversations'"),
    ("other names of roles", {"messages": [message("Human", "Hi"), message("AI", "Hello")]}, TALK,
     "the column 'messages'"),
    ("turns without roles", {"dialog": ["Hi", "Hello"]}, TALK, "the column 'dialog'"),
    ("conversation in a column of its own name", {"id": UUID, "exchange": [HI, HELLO]}, TALK, "the column 'exchange'"),
    ("prompt and completion", {"prompt": "Hi", "completion": "Hello"}, TALK, "the columns 'prompt', 'completion'"),
    ("lists of both", {"prompt": [HI], "completion": [HELLO]}, TALK, "the columns 'prompt', 'completion'"),
    ("preference", {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}, TALK, "the columns 'prompt', 'chosen'"),
    ("preference with the question", {"prompt": "Hi", "chosen": [HI, HELLO]}, TALK, "the columns 'prompt', 'chosen'"),
    ("Alpaca", {"instruction": "Add.", "input": "1 and 2", "output": "3"}, "[user]Add.\n\n1 and 2[assistant]3",
     "the columns 'instruction', 'input', 'output'"),
    ("Alpaca without input", {"instruction": "Hi", "input": "", "output": "Hello"}, TALK,
     "the columns 'instruction', 'input', 'output'"),
    ("Dolly", {"instruction": "Hi", "context": None, "response": "Hello", "category": "x"}, TALK,
     "the columns 'instruction', 'context', 'response'"),
    ("question and answer", {"id": 1, "question": "Hi", "answer": "Hello"}, TALK, "the columns 'question', 'answer'"),
    ("with a system prompt", {"system_prompt": "Be kind.", "question": "Hi", "response": "Hello"},
     "[system]Be kind." + TALK, "the columns 'system_prompt', 'question', 'response'"),
    ("SQuAD", {"context": PROSE, "question": "Why?", "answers": {"text": ["So."], "answer_start": [3]}},
     f"[user]Why?\n\n{PROSE}[assistant]So.", "the columns 'question', 'context', 'answers'"),
    *((f"{name} behind {what}", {key: value, name: PROSE}, PROSE, f"the column '{name}'")
      for name in ("content", "article", "document", "body", "anything")
      for what, key, value in (
          ("a uuid", "uuid", UUID), ("a number", "n", 3), ("a number in text", "doc_id", "000123"),
          ("an address", "url", f"https://example.org/{'path/' * 40}a"), ("a file", "source", "corpus/part-01.gz"),
          ("a hash", "sha", "9f86d081884c7d65" * 8), ("a date", "when", "2024-01-01 12:00:00"), ("nothing", "x", None),
          ("a title", "title", "A sentence"), ("tokens", "ids", "12 33 4 " * 99),
      )),
    ("a name before a length", {"html": "<p>" + 2 * PROSE, "content": PROSE}, PROSE, "the column 'content'"),
    ("other scripts", {"id": UUID, "body": "那座小山后面有"}, "那座小山后面有", "the column 'body'"),
]  # fmt: skip


def jsonl(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(spec: str, tokenizer: Any = None, column: str | None = None) -> tuple[str, str | None]:
    text = open_text(spec, tokenizer or byte_tokenizer(), 0, column)
    return "".join(text), text.said


@pytest.mark.parametrize(("row", "text", "columns"), [case[1:] for case in ROWS], ids=[case[0] for case in ROWS])
def test_the_text_of_a_row_is_found_and_said(tmp_path: Path, row: Any, text: str, columns: str) -> None:
    path = jsonl(tmp_path, row, row)
    assert read(path, chat_tokenizer()) == (f"{text}\n\n" * 2, f"{path}: 2 texts in {columns}")


def test_without_a_chat_template_turns_stand_below_each_other(tmp_path: Path) -> None:
    assert read(jsonl(tmp_path, {"conversations": [HUMAN, GPT]}))[0] == "Hi\n\nHello\n\n"


def test_rows_of_several_kinds_and_rows_without_text(tmp_path: Path) -> None:
    rows = ({"id": "x1", "text": None}, {"text": PROSE}, {"n": 1}, {"text": " "}, {"id": "x2", "messages": [HI, HELLO]})
    text, said = read(jsonl(tmp_path, *rows), chat_tokenizer())
    assert text == f"{PROSE}\n\n{TALK}\n\n"
    assert said is not None
    assert said.endswith(
        "1 text in the column 'text' and 1 text in the column 'messages'; 3 rows without text left out"
    )


def test_conversations_that_the_template_refuses_are_left_out_and_said(tmp_path: Path) -> None:
    bad = {"messages": [message("gremlin", "boo")]}
    text, said = read(jsonl(tmp_path, bad, {"messages": [HI, HELLO]}), chat_tokenizer())
    assert text == f"{TALK}\n\n"
    assert said is not None
    assert said.endswith("1 row that the chat template refuses left out")
    with pytest.raises(UsageError, match=r"do not fit the model's chat template \(no gremlins\)"):
        read(jsonl(tmp_path, bad), chat_tokenizer())


NAMED = [
    ("title", {"id": UUID, "title": "A title", "text": PROSE}, "A title"),
    ("meta.note", {"meta": {"note": "Deep in it"}, "text": PROSE}, "Deep in it"),
    ("a:b", {"a:b": "Behind a colon", "text": PROSE}, "Behind a colon"),
    ("talk", {"text": PROSE, "talk": [HI, HELLO]}, TALK),
]


@pytest.mark.parametrize(("column", "row", "text"), NAMED)
def test_a_named_column_is_read(tmp_path: Path, column: str, row: Any, text: str) -> None:
    path = jsonl(tmp_path, row)
    expected = (f"{text}\n\n", f"{path}: 1 text in the column {column!r}")
    assert read(f"{path}:{column}", chat_tokenizer()) == expected
    assert read(path, chat_tokenizer(), column) == expected
    assert read(f"{path}:{column}", chat_tokenizer(), "other") == expected


def test_a_file_with_a_colon_in_its_name_wins(tmp_path: Path) -> None:
    Path(jsonl(tmp_path, {"text": "first"})).rename(tmp_path / "a:b.jsonl")
    assert read(f"{tmp_path}/a:b.jsonl")[0] == "first\n\n"
    assert read(f"{tmp_path}/a:b.jsonl:text")[0] == "first\n\n"
    Path(jsonl(tmp_path, {"b": "second"})).rename(tmp_path / "a.jsonl")
    Path(jsonl(tmp_path, {"text": "third"})).rename(tmp_path / "a.jsonl:b")
    with pytest.raises(UsageError, match="of no kind that text is read from"):
        read(f"{tmp_path}/a.jsonl:b")


REFUSED: list[tuple[list[Any], str, str]] = [
    ([{"title": "A", "body": "B"}], "titel", "unknown column of .*rows.jsonl 'titel': did you mean 'title'"),
    ([{"title": "A"}], "", "no column is named behind the colon"),
    ([{"title": None}], "title", "no row of .* holds text in the column 'title' \\(columns: title\\)"),
    (
        [{"id": UUID, "n": "12"}],
        "*",
        "no row of .* holds text \\(columns: id, n\\): name one with text, as FILE:COLUMN",
    ),
    ([{"text": UUID}] * 9, "*", "the column 'text' of .* holds numbers, names or hashes and no language"),
    ([{"text": "12.5"}] * 9, "*", "the column 'text' of .* holds numbers, names or hashes and no language"),
    ([{"title": "A", "id": UUID}] * 9, "id", "the column 'id' of .* holds numbers, names or hashes and no language"),
    ([{"messages": [{"role": "user"}]}], "*", "no row of .* holds text \\(columns: messages\\)"),
    ([{"conversations": []}, {"id": "A word", "conversations": None}], "*", "no row of .* holds text"),
    ([{}], "*", "no row of .* holds text \\(columns: none\\)"),
    ([], "*", "rows.jsonl holds no rows"),
    ([{"text": "half \ud800"}], "*", "row 1 of .* holds half a character \\('.ud800'\\)"),
    ([[1]], "*", "line 1 of .* is not a JSON object"),
]


@pytest.mark.parametrize(("rows", "column", "message"), REFUSED)
def test_what_is_no_text_is_refused_in_one_sentence(tmp_path: Path, rows: Any, column: str, message: str) -> None:
    path = jsonl(tmp_path, *rows)
    with pytest.raises(UsageError, match=message) as caught:
        read(path if column == "*" else f"{path}:{column}")
    assert "\n" not in str(caught.value)
