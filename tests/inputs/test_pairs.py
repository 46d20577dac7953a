from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.inputs.pair_batches import pair_batches
from sinkquant.inputs.pairs import Pairs, read_pairs

from .conftest import BOS, EOS, byte_tokenizer


def written(where: Path, name: str, *rows: Any) -> str:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (where / name).write_text(text, encoding="utf-8")
    return str(where / name)


FORMS: list[tuple[str, tuple[Any, ...], str]] = [
    ("a.jsonl", ({"source": "x", "target": "y"},), ""),
    ("a.jsonl", ({"id": 1, "input": "x", "output": "y"},), ""),
    ("a.jsonl", ({"translation": {"en": "x", "de": "y"}},), ""),
    ("a.jsonl", ({"text": "x", "summary": "y"},), ""),
    ("a.jsonl", ({"source": "no", "text": "no", "q": "x", "a": "y"},), ":q:a"),
    ("a.jsonl", ({"translation": {"en": "y", "de": "x"}},), ":translation.de:translation.en"),
    ("a.csv", ("source,target", "x,y"), ""),
    ("a.tsv", ("src\ttgt", "x\ty"), ""),
]


@pytest.mark.parametrize(("name", "rows", "columns"), FORMS)
def test_columns_are_found(name: str, rows: tuple[Any, ...], columns: str, tmp_path: Path) -> None:
    pairs = read_pairs(written(tmp_path, name, *rows) + columns, byte_tokenizer(), count=3)
    assert (pairs.sources, pairs.targets) == (("x",), ("y",))
    assert "1 pair of" in pairs.said and "not the 3 asked for" in pairs.said


def test_a_data_set_is_read(tmp_path: Path) -> None:
    written(tmp_path, "a.jsonl", {"source": "x", "target": "y"}, {"source": "x", "target": ""})
    pairs = read_pairs(f"datasets:{tmp_path}", byte_tokenizer(), count=2)
    assert (pairs.sources, pairs.targets) == (("x",), ("y",)) and "1 row without one of them left out" in pairs.said


@pytest.mark.parametrize(("name", "rows"), [
    ("words.txt", ("hello", "", "world")), ("a.jsonl", ({"text": "hello"}, {"text": "world"})),
])  # fmt: skip
def test_sources_alone_are_read_one_by_one(name: str, rows: tuple[Any, ...], tmp_path: Path) -> None:
    pairs = read_pairs(written(tmp_path, name, *rows), byte_tokenizer(), count=5)
    assert sorted(pairs.sources) == ["hello", "world"] and pairs.targets == ()


def test_the_choice_follows_the_seed(tmp_path: Path) -> None:
    spec = written(tmp_path, "a.jsonl", *({"source": str(n), "target": str(n)} for n in range(30)))
    chosen = [read_pairs(spec, byte_tokenizer(), count=5, seed=seed).sources for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


BROKEN: list[tuple[str, tuple[Any, ...], str, str]] = [
    ("a.jsonl", ({"source": "", "target": "y"},), "", r"no row of .* holds a source in source and a target in target"),
    ("a.jsonl", ({"source": "x", "target": "y"},), ":source:targt", r"'targt': did you mean 'target'"),
    ("a.jsonl", ({"source": "x", "target": "y"},), ":sorce", r"'sorce': did you mean 'source'"),
    ("a.jsonl", ({"n": 1},), "", r"no row of .* holds text \(columns: n\)"),
    ("a.jsonl", ("{",), "", r"line 1 of .* is not JSON"),
    ("a.txt", ("",), "", r"holds no text: give a file with one text a line"),
    ("b.txt", ("x",), ".no", r"unknown kind|there is no text file"),
]


@pytest.mark.parametrize(("name", "rows", "behind", "message"), BROKEN)
def test_what_holds_no_pairs_is_refused_in_one_sentence(
    name: str, rows: tuple[Any, ...], behind: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SinkquantError, match=message) as caught:
        read_pairs(written(tmp_path, name, *rows) + behind, byte_tokenizer(), count=2)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def model() -> BartForConditionalGeneration:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=258, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=12,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS, decoder_start_token_id=BOS, forced_eos_token_id=None,
    )  # fmt: skip
    made = BartForConditionalGeneration(config).eval()
    with torch.no_grad():
        made.model.shared.weight[BOS] *= 5
    return made


def test_batches_hold_the_source_and_the_target_shifted_right(model: BartForConditionalGeneration) -> None:
    tokenizer = byte_tokenizer()
    a, b, c = tokenizer("abc")["input_ids"]
    pairs = Pairs(("ab", "a"), ((BOS, c, b), (c,)), "here", "read")
    batch = pair_batches(pairs, tokenizer, model, 2).items[0]
    assert batch.tensors["input_ids"].tolist() == [[a, b], [a, EOS]]
    assert batch.tensors["attention_mask"].tolist() == [[1, 1], [1, 0]] == batch.real["input_ids"].int().tolist()
    assert batch.labels is not None and batch.labels.tolist() == [[c, b, EOS], [c, EOS, -100]]
    assert batch.tensors["decoder_input_ids"].tolist() == [[BOS, c, b], [BOS, c, EOS]]
    assert batch.real["decoder_input_ids"].tolist() == [[True, True, True], [True, True, False]]
    assert batch.texts == ("cb", "c")


def test_a_model_that_lacks_what_its_own_shift_asks_for_is_shifted_all_the_same(
    model: BartForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = Pairs(("ab", "a"), ("cb", "c"), "here", "read")
    expected = pair_batches(pairs, byte_tokenizer(), model, 2)[0]

    def lacks(labels: torch.Tensor) -> torch.Tensor:
        raise AttributeError("decoder_start_token_id")

    monkeypatch.setattr(model, "prepare_decoder_input_ids_from_labels", lacks)
    made = pair_batches(pairs, byte_tokenizer(), model, 2)[0]
    for name, tensor in expected.tensors.items():
        assert torch.equal(made.tensors[name], tensor)


def test_texts_are_tokenized_and_cut_where_the_positions_end(model: BartForConditionalGeneration) -> None:
    batches = pair_batches(Pairs(("a" * 30, "b"), ("c" * 30, "d"), "here", "read"), byte_tokenizer(), model, 1)
    assert batches.items[0].tensors["input_ids"].shape == batches.items[0].tensors["decoder_input_ids"].shape == (1, 12)
    assert batches.items[1].texts == ("d",) and batches.said == "read"
    with torch.no_grad():
        model(**batches.items[0].tensors)


def test_the_model_answers_sources_alone(model: BartForConditionalGeneration) -> None:
    batches = pair_batches(Pairs(("ab", "xyz"), (), "here", "read"), byte_tokenizer(), model, 2)
    batch = batches.items[0]
    with torch.no_grad():
        said = model(**batch.tensors).logits.argmax(-1)
    assert batch.labels is not None
    own = batch.labels != -100
    own[:, -1] = False  # an end is put where the answer has none
    assert own.any() and torch.equal(said[own], batch.labels[own])
    assert batches.said == "read; answered by the model" and len(batch.texts) == 2


def test_targets_that_the_tokenizer_cannot_write_are_refused(model: BartForConditionalGeneration) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.unk_token = tokenizer.convert_ids_to_tokens(tokenizer("x")["input_ids"])[0]
    with pytest.raises(UsageError, match=r"does not know what the target 'xxa' is written with: give targets as lists"):
        pair_batches(Pairs(("a",), ("xxa",), "here", "read"), tokenizer, model, 1)
