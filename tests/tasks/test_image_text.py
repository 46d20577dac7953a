"""Models that see and write through every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import sinkquant
from sinkquant.formats.manifest import read_manifest
from sinkquant.models.source import resolve
from sinkquant.tasks.image_text import IMAGE_TEXT
from tests.proved import as_proved
from tests.tasks.sighted import captioned, make, save_llava

SMALL = ("calibration.sequences=1", "calibration.length=64")


@dataclass(frozen=True)
class Row:
    """A recipe, what is set beside it, and the largest KL of the answers' tokens in nats."""

    recipe: str
    kl: float
    overrides: tuple[str, ...] = ()
    rounded: int = 3 * 6 + 3 * 7 + 2  # linears of tower, language model and connector


ROWS = (
    Row("w8a8-npu", 0.01),
    Row("w8a8-static", 0.01),
    Row("w8a8", 0.01),
    Row("w4a16", 0.05, ("weights.group_size=16",)),
    Row("w8a8-npu", 0.01, ("parts.towers=float",), rounded=3 * 7 + 2),
    Row("w8a8-npu", 0.01, ("parts.language=float", "parts.connector=float"), rounded=3 * 6),
    Row("w4a16", 0.05, ("weights.group_size=16", "parts.towers=int8", "parts.connector=float"), rounded=3 * 13),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captioned(tmp_path_factory.mktemp("photos"), 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava") / "model")


def quantized(folder: Path, photos: Path, out: Path, recipe: str, overrides: tuple[str, ...] = ()) -> Any:
    return sinkquant.quantize(
        folder, recipe=recipe, output=out, calibration=str(photos), overrides=(*SMALL, *overrides)
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join((row.recipe, *row.overrides)))
def test_every_command(row: Row, folder: Path, photos: Path, tmp_path: Path) -> None:
    done = quantized(folder, photos, tmp_path / "out", row.recipe, row.overrides)
    out = done.path
    assert read_manifest(out).task == "image-text"
    model = sinkquant.load(out)
    assert as_proved(model, out)
    stock = transformers.AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32).eval()
    probe = IMAGE_TEXT.probe(model, 2)
    assert torch.allclose(IMAGE_TEXT.answer(stock, probe), IMAGE_TEXT.answer(model, probe), rtol=1e-4, atol=1e-5)
    found = sinkquant.evaluate(out, baseline=folder, data=photos, samples=12)
    assert (found.task, found.windows) == ("image-text", 12)
    assert found.kl is not None and 0 < found.kl < row.kl
    assert found.figures["image_gap"][0] != found.figures["image_gap"][1]
    assert sum(scheme.weight is not None for scheme in done.plan.linears.values()) == row.rounded
    assert sinkquant.verify(out).difference.acceptable
    seen = sinkquant.inspect(out)
    assert sum(part.modules for part in seen.quantized if "bits" in part.scheme.weights) >= row.rounded
    assert not any("proj" in kind for part in seen.floats for kind in part.kinds) or "parts" in "".join(row.overrides)


def test_the_prefix_takes_the_sink_of_the_text(folder: Path, photos: Path, tmp_path: Path) -> None:
    begins = ("calibration.bos=always",)
    done = quantized(folder, photos, tmp_path / "out", "w8a8-static", begins)
    assert done.plan.prefix == (1,) and done.plan.prefixed == {"model.language_model.layers"}
    assert done.report.prefix.absorbed
    model = sinkquant.load(done.path)
    held = [name for name, _ in model.named_buffers() if name.endswith("sink_key")]
    assert len(held) == 3 and all("language_model" in name for name in held)
    found = sinkquant.evaluate(done.path, baseline=folder, data=photos, samples=12, bos="always")
    assert found.bos_result == "prefix" and found.kl is not None and found.kl < 0.01


def test_sinks_have_the_names_of_patches(folder: Path, photos: Path) -> None:
    model = make("llava")
    tower, mark, unit, channel = model.model.vision_tower, 0, 3, 5
    with torch.no_grad():  # one patch is marked by its position, and a unit of the first block writes a spike there
        tower.embeddings.position_embedding.weight[1 + 4 * 2 + 3, mark] = 300  # behind CLS
        mlp = tower.encoder.layers[0].mlp
        mlp.fc1.weight[unit], mlp.fc1.bias[unit] = 0, -80
        mlp.fc1.weight[unit, mark], mlp.fc2.weight[channel, unit] = 20, 50
    report = sinkquant.detect(
        model, tokenizer=IMAGE_TEXT.processor(resolve(folder, False)), task="image-text", calibration=str(photos)
    )
    found = {sink.stack: sink for sink in report.sinks if sink.patch == (2, 3)}
    own, among_text = found["model.vision_tower.encoder.layers"], found["model.language_model.layers"]
    assert own.token == "patch (2, 3)" and own.channel == channel and own.frequency == 1
    assert own.origin is not None and (own.origin.row, own.origin.column) == (channel, unit)
    assert among_text.same_channel is False  # no sink of the text is there
