from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sinkquant.errors import SinkquantError
from sinkquant.inputs.sentences import Sentences, read_sentences, sentence_batches

from .conftest import BOS, EOS, byte_tokenizer


@pytest.mark.parametrize(("name", "content"), [
    ("a.txt", "hello there\n\nsecond line\nhello there\n"),
    ("a.jsonl", '{"text": "hello there"}\n{"text": ""}\n{"text": "second line"}\n'),
    ("a.csv", "text,n\nhello there,1\nsecond line,2\n"),
    ("a.json", json.dumps(["hello there", "second line"])),
])  # fmt: skip
def test_every_line_and_row_is_a_text_once(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    got = read_sentences(str(tmp_path / name), byte_tokenizer(), count=9)
    assert sorted(got.texts) == ["hello there", "second line"] and "2 texts, not the 9 asked for" in got.said


def test_named_sources_give_sentences_by_the_seed() -> None:
    chosen = [read_sentences("python-docs", byte_tokenizer(), count=20, seed=seed).texts for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2] and len(set(chosen[0])) == 20
    assert all(20 <= len(text) <= 2000 and "\n" not in text for text in chosen[0])


def test_batches_are_padded_behind_and_cut() -> None:
    tokenizer = byte_tokenizer(prepends_bos=True)
    batches = sentence_batches(Sentences(("ab", "a", "abcdef"), "here", "read"), tokenizer, 2, length=4)
    first, second = batches.items
    a, b = tokenizer("ab", add_special_tokens=False)["input_ids"]
    assert first.tensors["input_ids"].tolist() == [[BOS, a, b], [BOS, a, EOS]]
    assert first.real["input_ids"].tolist() == [[True] * 3, [True, True, False]]
    assert torch.equal(first.tensors["attention_mask"].bool(), first.real["input_ids"])
    assert second.tensors["input_ids"].shape == (1, 4) and second.texts == ("abcdef",)
    assert (batches.source, batches.said, batches.samples) == ("here", "read", 3)


def test_token_types_are_taken_where_the_tokenizer_gives_them() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    batch = sentence_batches(Sentences(("ab", "a"), "here", "read"), tokenizer, 2).items[0]
    assert batch.tensors["token_type_ids"].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("content", "options", "message"), [
    ("", {}, r"holds no text: give a file with one text a line"),
    ("   \n\n", {}, r"holds no text"),
    ("1 2 3\n", {}, r"no language"),
    ("text\n", {"count": 0}, r"0 texts are too few"),
    ("text\n", {"column": "x"}, r"has no columns"),
])  # fmt: skip
def test_what_holds_no_texts_is_refused_in_one_sentence(
    content: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(SinkquantError, match=message) as caught:
        read_sentences(str(tmp_path / "a.txt"), byte_tokenizer(), **{"count": 2, **options})
    assert "\n" not in str(caught.value)


def test_only_causal_models_write_their_own_text() -> None:
    with pytest.raises(SinkquantError, match=r"cannot write its own text.*give python-docs"):
        read_sentences("self", byte_tokenizer(), count=2)
