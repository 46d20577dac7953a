"""One vector a text, and the files of sentence-transformers that say how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sinkquant
from sinkquant.errors import SinkquantError
from sinkquant.tasks.pooling import MODES, modules, pool, pooling_modes
from tests import tiny
from tests.tasks.encoders import save

STATES = torch.tensor([[[1.0, 8.0], [3.0, 2.0], [90.0, 90.0]], [[5.0, -4.0], [7.0, 0.0], [6.0, 7.0]]])
REAL = torch.tensor([[True, True, False], [True, True, True]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls_token", [[1.0, 8.0], [5.0, -4.0]]),
        ("lasttoken", [[3.0, 2.0], [6.0, 7.0]]),
        ("mean_tokens", [[2.0, 5.0], [6.0, 1.0]]),
        ("max_tokens", [[3.0, 8.0], [7.0, 7.0]]),
        ("weightedmean_tokens", [[7 / 3, 4.0], [37 / 6, 17 / 6]]),
    ],
)
def test_modes(mode: str, expected: list[list[float]]) -> None:
    assert torch.allclose(pool(STATES, REAL, (mode,)), torch.tensor(expected))


def test_texts_padded_in_front_are_pooled_alike() -> None:
    front = STATES[:1, [2, 0, 1]], REAL[:1, [2, 0, 1]]
    for mode in MODES:
        assert torch.allclose(pool(*front, (mode,)), pool(STATES[:1], REAL[:1], (mode,))), mode


def test_several_modes_are_joined_in_one_order() -> None:
    assert pool(STATES, REAL, ("cls_token", "mean_tokens"))[0].tolist() == [1.0, 8.0, 2.0, 5.0]


def described(folder: Path, pooling: object, path: str = "1_Pooling") -> Path:
    listed = [{"type": "sentence_transformers.models.Transformer", "path": ""},
              {"type": "sentence_transformers.models.Pooling", "path": path},
              {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}]  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls_token",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls_token", "mean_tokens")),
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": "mean"}, ("mean_tokens",)),
        ({"word_embedding_dimension": 4}, ("mean_tokens",)),
    ],
)
def test_modes_are_read(pooling: object, modes: tuple[str, ...], tmp_path: Path) -> None:
    assert pooling_modes(described(tmp_path, pooling)) == modes
    assert [kind for kind, _ in modules(tmp_path)] == ["Transformer", "Pooling", "Normalize"]


def test_without_files_it_is_the_mean(tmp_path: Path) -> None:
    assert pooling_modes(tmp_path) == pooling_modes(None) == ("mean_tokens",)


@pytest.mark.parametrize(
    ("pooling", "path", "message"),
    [
        ({"pooling_mode": "meen"}, "1_Pooling", "mean_tokens"),
        ({"pooling_mode": "mean"}, "../1_Pooling", "without type and path"),
        ({"pooling_mode": "mean"}, "9_Pooling", "lacks config.json"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(pooling: object, path: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SinkquantError, match=message):
        pooling_modes(described(tmp_path / "model", pooling, path))


def test_a_checkpoint_pools_as_its_model_and_carries_the_files(tmp_path: Path) -> None:
    folder, out = save("bert", tmp_path / "model"), tmp_path / "out"
    described(folder, {"pooling_mode_cls_token": True})
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": False}))
    (folder / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "cosine"}\n')
    (tmp_path / "text.txt").write_text(tiny.sentences(200))
    sinkquant.quantize(
        folder, recipe="w8a8", output=out, calibration=str(tmp_path / "text.txt"),
        overrides=("calibration.sequences=4", "calibration.length=64"),
    )  # fmt: skip
    names = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json")
    for name in names:
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    from sinkquant.tasks.tasks import TASKS

    model, task = sinkquant.load(out), TASKS["embedding"]
    batch = task.probe(model, 2)
    with torch.no_grad():
        first = model(**batch.tensors).last_hidden_state[:, 0]
    assert torch.equal(task.answer(model, batch), first)
    (out / "1_Pooling/config.json").write_text("{}")
    with pytest.raises(SinkquantError, match="1_Pooling"):
        sinkquant.load(out)
