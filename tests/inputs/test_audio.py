from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Audio, Features, Value

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.inputs.audio import Clips, read_clips
from sinkquant.inputs.speech import heard, speech_batches
from tests.conftest import SHARED

from .sounds import tone, wav

NAMES = ("a.wav", "in/b.wav")


def folder(where: Path, *names: str) -> str:
    for name in names or NAMES:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(wav(tone()))
    return str(where)


BESIDE: dict[str, dict[str, str]] = {
    "json": {"transcripts.json": json.dumps([{"file": "a.wav", "text": "one"}, {"file": "in/b.wav", "text": "two 2"}])},
    "jsonl": {"metadata.jsonl": '{"file_name": "a.wav", "transcription": "one"}\n{"file_name": "b.wav", "text": ""}\n'
                                '{"file_name": "in/b.wav", "transcription": "two 2"}'},
    "csv": {"transcripts.csv": 'path,sentence\na.wav,one\nb,"two 2"\n'},
    "csv without a header": {"metadata.csv": "a|ONE|one\nb|TWO|two 2\n"},
    "tsv": {"validated.tsv": "client\tpath\tsentence\nx\ta.wav\tone\ny\tb.wav\ttwo 2\n"},
    "txt": {"transcripts.txt": "a.wav one\nin/b.wav\ttwo 2\n"},
    "librispeech": {"in/7-8.trans.txt": "a one\nb two 2\n"},
    "beside": {"a.txt": "one\n", "in/b.txt": "two\n2\n"},
}  # fmt: skip


@pytest.mark.parametrize("case", BESIDE)
def test_transcripts_are_found(case: str, tmp_path: Path) -> None:
    spec = folder(tmp_path)
    for name, text in BESIDE[case].items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    clips = read_clips(spec, rate=16000)
    assert dict(zip(clips.names, clips.texts, strict=True)) == {"a.wav": "one", "in/b.wav": "two 2"}
    assert "2 clips of 0.5 seconds" in clips.said and "no transcripts" not in clips.said


def as_jsonl(where: Path) -> str:
    folder(where)
    (where / "rows.jsonl").write_text('{"audio": "a.wav", "text": "one"}\n{"audio": "in/b.wav", "text": "two"}\n')
    return str(where / "rows.jsonl")


def as_columns(where: Path) -> str:
    folder(where)
    rows = [{"x": name, "said": text, "text": "no"} for name, text in zip(NAMES, ("one", "two"), strict=True)]
    (where / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(where / "rows.jsonl:x:said")


def as_data_set(where: Path) -> str:
    rows = {"audio": [{"bytes": wav(tone()), "path": None}] * 2, "text": ["one", "two"]}
    features = Features({"audio": Audio(), "text": Value("string")})
    pq.write_table(pa.Table.from_pydict(rows, schema=features.arrow_schema), where / "a.parquet")
    return f"datasets:{where}"


def as_file(where: Path) -> str:
    folder(where, "one.wav")
    (where / "one.txt").write_text("one")
    return str(where / "one.wav")


@pytest.mark.parametrize(("source", "texts"), [
    (as_jsonl, ["one", "two"]), (as_columns, ["one", "two"]), (as_data_set, ["one", "two"]), (as_file, ["one"]),
])  # fmt: skip
def test_rows_data_sets_and_single_files_are_read(
    source: Callable[[Path], str], texts: list[str], tmp_path: Path
) -> None:
    clips = read_clips(source(tmp_path), rate=16000)
    assert sorted(clips.texts) == texts
    assert all(np.abs(samples - tone()).max() < 1e-3 for samples in clips.samples)


def test_the_choice_follows_the_seed(tmp_path: Path) -> None:
    spec = folder(tmp_path, *(f"{number}.wav" for number in range(20)))
    chosen = [read_clips(spec, rate=16000, count=5, seed=seed).names for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2] and len(set(chosen[0])) == 5


def test_what_cannot_be_used_is_left_out_and_named(tmp_path: Path) -> None:
    spec = folder(tmp_path, "good.wav", "silent.wav", "long.wav", "untold.wav")
    (tmp_path / "silent.wav").write_bytes(wav(np.zeros(8000)))
    (tmp_path / "long.wav").write_bytes(wav(tone(3)))
    (tmp_path / "transcripts.txt").write_text("good a\nsilent b\nlong c\n")
    clips = read_clips(spec, rate=16000, count=3, longest=2)
    assert clips.names == ("good.wav",)
    assert "1 clip of 0.5 seconds on average, not the 3 asked for" in clips.said and "3 left out" in clips.said
    for reason in ("silent.wav is silent", "long.wav is longer than the 2 seconds", "untold.wav has no transcript"):
        assert reason in clips.said


def test_without_transcripts_long_clips_are_cut(tmp_path: Path) -> None:
    folder(tmp_path, "long.wav")
    (tmp_path / "long.wav").write_bytes(wav(tone(2.55)))
    clips = read_clips(str(tmp_path), rate=16000, longest=1)
    assert [len(samples) for samples in clips.samples] == [16000, 16000, 8800]
    assert clips.texts == () and "no transcripts" in clips.said
    assert len(read_clips(str(tmp_path), rate=16000, longest=1, count=2)) == 2
    (tmp_path / "long.wav").write_bytes(wav(tone(1.05)))
    assert len(read_clips(str(tmp_path), rate=16000, longest=1)) == 1


def text_only(where: Path) -> str:
    (where / "a.txt").write_text("text")
    return str(where)


def broken_only(where: Path) -> str:
    (where / "a.wav").write_bytes(b"")
    return str(where)


def rows_of_text(where: Path) -> str:
    (where / "a.jsonl").write_text('{"text": "hello"}')
    return str(where / "a.jsonl")


BROKEN: dict[Callable[[Path], str | None], str] = {
    str: r"is empty: give a folder of audio",
    text_only: r"holds no audio but 1 \.txt: give a folder of audio",
    broken_only: r"no clip of .* can be read, 1 left out \(a\.wav is empty\)",
    rows_of_text: r"has no column with audio \(columns: text\)",
    lambda where: rows_of_text(where) + ":txt": r"unknown column of .* 'txt': did you mean 'text'",
    lambda where: as_jsonl(where) + ":audio:txt": r"unknown column of .* 'txt': did you mean 'text'",
    lambda where: str(where / "no"): r"there is no folder or file of audio",
    lambda _: None: r"the model hears speech, and none is named: give a folder",
}


@pytest.mark.parametrize("source", BROKEN)
def test_what_holds_no_speech_is_refused_in_one_sentence(source: Callable[[Path], str | None], tmp_path: Path) -> None:
    with pytest.raises(SinkquantError, match=BROKEN[source]) as caught:
        read_clips(source(tmp_path), rate=16000)
    assert "\n" not in str(caught.value)


class Words:
    """A tokenizer whose words begin with a blank: a number for each."""

    pad_token_id, eos_token_id = 0, 9

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        blank = [] if text.startswith(" ") else [50]
        return {"input_ids": [*blank, *(20 + len(word) for word in text.split())]}

    def batch_decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        return ["written"] * len(ids)


class Extractor:
    sampling_rate, chunk_length = 16000, 30

    def __call__(self, samples: list[np.ndarray], sampling_rate: int, return_tensors: str) -> dict[str, Any]:
        assert (sampling_rate, return_tensors) == (16000, "pt")
        return {"input_features": torch.tensor([[[len(one)]] for one in samples], dtype=torch.float32)}


def hearer(**generation: Any) -> Any:
    given = {"decoder_start_token_id": 1, "eos_token_id": 9} | generation
    return SimpleNamespace(
        generation_config=SimpleNamespace(**given), config=SimpleNamespace(max_target_positions=7),
        device="cpu", dtype=torch.float32, detect_language=lambda features: torch.tensor([4, 3, 4])[: len(features)],
        generate=lambda **inputs: torch.ones(len(inputs["input_features"]), 3, dtype=torch.int64),
    )  # fmt: skip


def clips(*texts: str) -> Clips:
    return Clips(("x",) * 3, (tone(), tone(), tone(0.2)), texts, 16000, "here", "read")


PROCESSOR = SimpleNamespace(feature_extractor=Extractor(), tokenizer=Words())
MANY = {"lang_to_id": {"<|en|>": 3, "<|de|>": 4}, "task_to_id": {"transcribe": 5}, "no_timestamps_token_id": 6}


@pytest.mark.parametrize(("generation", "language", "first"), [
    (MANY, "en", [1, 3, 5, 6]),
    (MANY, "<|de|>", [1, 4, 5, 6]),
    (MANY, None, [1, 4, 5, 6]),  # what most clips are heard as
    (MANY | {"language": "en"}, None, [1, 3, 5, 6]),
    ({"no_timestamps_token_id": 6}, None, [1, 6]),
    ({}, None, [1]),
])  # fmt: skip
def test_the_decoder_is_told_what_stands_in_front_and_the_transcript(
    generation: dict[str, Any], language: str | None, first: list[int]
) -> None:
    batch = speech_batches(clips("a bc", "d", "e"), PROCESSOR, hearer(**generation), 3, language=language).items[0]
    assert batch.tensors["decoder_input_ids"][:2].tolist() == [[*first, 21, 22], [*first, 21, 0]]
    told = len(first) + 1
    assert batch.real["decoder_input_ids"][:2].tolist() == [[True] * (told + 1), [*[True] * told, False]]
    unasked = [-100] * (len(first) - 1)
    assert batch.labels is not None and batch.labels[:2].tolist() == [[*unasked, 21, 22, 9], [*unasked, 21, 9, -100]]
    assert batch.texts == ("a bc", "d", "e")
    assert batch.tensors["input_features"].flatten().tolist() == [8000, 8000, 3200]


def test_long_transcripts_end_where_the_positions_do() -> None:
    batch = speech_batches(clips("a b c d e f g h i", "d", "e"), PROCESSOR, hearer(), 3).items[0]
    assert batch.tensors["decoder_input_ids"][0].tolist() == [1, *[21] * 6]
    assert batch.labels is not None and batch.labels[0].tolist() == [21] * 7


def test_clips_without_transcripts_are_transcribed_by_the_model() -> None:
    batches = speech_batches(clips(), PROCESSOR, hearer(), 2)
    assert [batch.texts for batch in batches.items] == [("written", "written"), ("written",)]
    assert batches.said == "read; transcribed by the model"


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown language 'fr': choose one of de, en"):
        speech_batches(clips(), PROCESSOR, hearer(**MANY), 2, language="fr")
    with pytest.raises(UsageError, match=r"the model knows one language"):
        speech_batches(clips(), PROCESSOR, hearer(), 2, language="fr")


def test_what_a_processor_hears() -> None:
    assert heard(PROCESSOR) == (16000, 30.0)
    assert heard(SimpleNamespace(sampling_rate=8000)) == (8000, None)


def test_sentences_with_a_list_of_transcripts_are_read_whole() -> None:
    pytest.importorskip("soundfile")
    place = SHARED / "audio/spoken-sentences"
    place = place if place.exists() else SHARED / "assets/audio/spoken-sentences"
    if not place.exists():
        pytest.skip("the spoken sentences are missing")
    got = read_clips(str(place), rate=16000, longest=30)
    assert len(got) == 64 and all(got.texts) and "left out" not in got.said
