from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sinkquant.errors import UsageError
from sinkquant.inputs.text import TokenBatches, first_tokens, load_calibration
from tests.tiny import sentences

from .conftest import BOS, byte_tokenizer

TEXT = "".join(f"line {i} of a text\n" for i in range(40))


@pytest.fixture
def text_file(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def load(source: str, tokenizer: Any, **changes: Any) -> TokenBatches:
    options: dict[str, Any] = {"sequences": 3, "length": 50, "seed": 0} | changes
    return load_calibration(source, tokenizer, **options)


def test_windows_are_spread_evenly_over_the_text(text_file: str, tokenizer: PreTrainedTokenizerFast) -> None:
    batches = load(text_file, tokenizer)
    assert len(TEXT) < 20 * 3 * 50  # all of it is read
    assert (batches.ids.shape, batches.ids.dtype) == ((3, 50), torch.int64)
    windows = [TEXT[i : i + 50] for i in range(0, len(TEXT) - 49, 50)]
    picked = [i * len(windows) // 3 for i in range(3)]
    assert [tokenizer.decode(row) for row in batches.ids] == [windows[i] for i in picked]
    assert (batches.source, batches.said) == (text_file, None)


def test_a_tokenizer_that_prepends_bos_adds_none_here(text_file: str) -> None:
    assert not (load(text_file, byte_tokenizer(prepends_bos=True)).ids == BOS).any()


def test_no_more_windows_than_there_are(text_file: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert load(text_file, tokenizer, sequences=10**6).ids.shape == (len(TEXT) // 50, 50)


@pytest.mark.parametrize(
    ("sequences", "length", "read"),
    [(2, 50, 20 * 100), (16, 1024, 300_000), (18, 1024, 300_000), (34, 1024, 300_000), (700, 1024, 700 * 1024)],
)
def test_what_is_read_follows_what_is_asked(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, sequences: int, length: int, read: int
) -> None:
    """The recipes' own sizes read 300 000 tokens: their figures were measured so."""
    asked: list[int] = []

    def count(pieces: Any, tokenizer: Any, wanted: int) -> list[int]:
        asked.append(wanted)
        return [1] * wanted

    monkeypatch.setattr("sinkquant.inputs.text.first_tokens", count)
    load("python-docs", tokenizer, sequences=sequences, length=length)
    assert asked == [read]


@pytest.mark.parametrize(("characters", "length"), [(0, 50), (49, 50), (31, 8)])
def test_text_too_short_is_refused_with_counts(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, characters: int, length: int
) -> None:
    path = tmp_path / "short.txt"
    path.write_text("x" * characters)
    with pytest.raises(UsageError, match=rf"has {characters} tokens.*longer text"):
        load(str(path), tokenizer, length=length)


def test_a_few_short_sequences_of_a_long_text(text_file: str, tokenizer: PreTrainedTokenizerFast) -> None:
    assert load(text_file, tokenizer, sequences=1, length=8).ids.shape == (1, 8)


def test_one_window_of_short_text_is_enough(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "short.txt").write_text("x" * 50)
    assert load(str(tmp_path / "short.txt"), tokenizer).ids.shape == (1, 50)


@pytest.mark.parametrize("changes", [{"sequences": 0}, {"length": 1}])
def test_impossible_sizes_are_refused(text_file: str, tokenizer: PreTrainedTokenizerFast, changes: Any) -> None:
    with pytest.raises(UsageError, match="ask for at least"):
        load(text_file, tokenizer, **changes)


def test_self_needs_a_model(tokenizer: PreTrainedTokenizerFast, byte_llama: Any) -> None:
    with pytest.raises(UsageError, match="needs a model"):
        load("self", tokenizer)
    assert load("self", tokenizer, model=byte_llama).ids.shape == (3, 50)


@given(st.lists(st.text(max_size=400), max_size=12), st.integers(1, 300))
def test_reading_in_pieces_gives_the_tokens_of_the_whole(texts: list[str], count: int) -> None:
    tokenizer = byte_tokenizer()
    whole = tokenizer("".join(texts), add_special_tokens=False)["input_ids"]
    assert first_tokens(iter(texts), tokenizer, count) == whole[:count]


def test_no_more_is_read_than_needed(tokenizer: PreTrainedTokenizerFast) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "0123456789"

    assert len(first_tokens(endless(), tokenizer, 1000)) == 1000
    assert read * 10 < 6 * 1100


def test_protocol_on_long_text(model_folder: Path, tmp_path: Path) -> None:
    """16 x 1024 are windows of the whole text's tokens at even distances."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    path = tmp_path / "text.txt"
    path.write_text(sentences(12_000), encoding="utf-8")
    batches = load(str(path), tokenizer, sequences=16, length=1024)
    whole = tokenizer(path.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    assert len(whole) > 200_000
    count = len(whole) // 1024
    for i, row in enumerate(batches.ids):
        start = i * count // 16 * 1024
        assert row.tolist() == whole[start : start + 1024]
