"""Image classifiers and image encoders through every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import sinkquant
from sinkquant.formats.manifest import read_manifest
from sinkquant.tasks.tasks import TASKS
from tests.proved import as_proved
from tests.tasks.towers import SIZES, photographs, save

SMALL = ("calibration.sequences=2",)
CLASSIFIES, FEATURES = "image-classification", "image-features"


@dataclass(frozen=True)
class Row:
    """A model, the recipe, the task that is found, and the note that must be there."""

    kind: str
    recipe: str
    task: str
    overrides: tuple[str, ...] = ()
    said: str = ""


ROWS = (
    Row("vit", "w8a8-npu", CLASSIFIES),
    Row("vit", "w8a8", CLASSIFIES),
    Row("vit", "w4a16", CLASSIFIES, ("weights.group_size=16",)),
    Row("vit", "w8a8-static", CLASSIFIES, said="R1"),
    Row("deit", "w8a8-npu", CLASSIFIES),
    Row("dinov2", "w8a8-npu", FEATURES),
    Row("dinov2-classes", "w8a8-npu", CLASSIFIES),
    Row("clip", "w8a8-npu", FEATURES),
    Row("clip", "w8a8", FEATURES),
    Row("siglip", "w8a8-npu", FEATURES),
    Row("siglip", "w8a8", FEATURES),
    Row("clip-pair", "w8a8-npu", FEATURES, said="text_model ("),
    Row("clip-pair", "w8a8-static", FEATURES, said="text_model ("),
    Row("clip-pair", "w8a8", FEATURES, said="text_model ("),
    Row("siglip-pair", "w8a8-npu", FEATURES, said="text_model ("),
    Row("siglip-pair", "w8a8", FEATURES, said="text_model ("),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("photos"))


def quantized(folder: Path, photos: Path, recipe: str, overrides: tuple[str, ...] = ()) -> Any:
    return sinkquant.quantize(
        folder, recipe=recipe, output=folder.with_name("out"), calibration=str(photos), overrides=(*SMALL, *overrides)
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.kind}-{row.recipe}")
def test_every_command(row: Row, photos: Path, tmp_path: Path) -> None:
    folder = save(row.kind, tmp_path / "model")
    done = quantized(folder, photos, row.recipe, row.overrides)
    out, notes = done.path, done.plan.notes
    assert any("calibration images from" in note for note in notes) and any(row.said in note for note in notes), notes
    assert read_manifest(out).task == row.task

    model, task = sinkquant.load(out), TASKS[row.task]
    assert as_proved(model, out)
    stock = getattr(transformers, task.auto).from_pretrained(out, dtype=torch.float32).eval()
    probe = task.probe(model, 2)
    if probe.method is not None:
        stock(input_ids=torch.arange(3, 12)[None], **probe.tensors)
    assert torch.allclose(task.answer(stock, probe), task.answer(model, probe), rtol=1e-4, atol=1e-5)

    found = sinkquant.evaluate(out, baseline=folder, data=photos, samples=40)
    assert (found.task, found.windows) == (row.task, 40)
    assert done.figures["images"] > 0 and not any("text" in str(part) for part in done.figures.items())
    if row.task == CLASSIFIES:
        assert found.kl is not None and found.kl < 0.1
        assert found.top1_agreement is not None and found.top1_agreement > 0.8
        assert found.figures["accuracy"][0] is not None  # the folders are the model's classes
    else:
        assert found.figures["cosine"][1] > 0.99 and found.figures["low_cosine"][1] > 0.98
    seen = sinkquant.inspect(out)
    assert not any(one.loads for one in seen.runtimes if "vLLM" in one.name or "SGLang" in one.name)
    rotates = any(scheme.rotate for scheme in done.plan.linears.values())
    assert any("online rotations" in one.loss for one in seen.runtimes) == rotates
    linears = sum(scheme.weight is not None for scheme in done.plan.linears.values())
    assert sum(part.modules for part in seen.quantized) >= linears == 18


def test_verify_compares_what_is_seen_in_pictures(photos: Path, tmp_path: Path) -> None:
    done = quantized(save("vit", tmp_path / "model"), photos, "w8a8-npu")
    assert sinkquant.verify(done.path).difference.acceptable


def test_a_classifier_is_distilled(photos: Path, tmp_path: Path) -> None:
    fitted = ("weights.bits=2", "tuning.epochs=3", "tuning.rate=0.01", "proof.worst=null")
    done = quantized(save("vit", tmp_path / "model"), photos, "w8a8-npu", fitted)
    tuned = done.figures["tuning"]
    assert tuned["kept"] and tuned["after"] < 0.95 * tuned["before"]


def test_a_checkpoint_that_stock_transformers_cannot_load_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(sinkquant.SinkquantError, match="splits fused weights of this architecture"):
        quantized(save("dinov2", tmp_path / "model"), photos, "w8a8")


def test_no_images_are_named(tmp_path: Path) -> None:
    folder = save("vit", tmp_path / "model")
    with pytest.raises(sinkquant.SinkquantError, match="the model sees images, and none are named"):
        sinkquant.quantize(folder, recipe="w8a8-npu", output=tmp_path / "out")


@pytest.mark.parametrize("kind", ["clip-pair", "siglip-pair"])
def test_the_tower_for_text_stays_as_it_is(kind: str, photos: Path, tmp_path: Path) -> None:
    folder = save(kind, tmp_path / "model")
    found = sinkquant.detect(folder, calibration=str(photos))
    assert found.layers and len(found.layers) == SIZES["num_hidden_layers"]  # of the tower for images alone
    done = quantized(folder, photos, "w8a8-npu", ("export.dtype=float32",))
    assert sinkquant.verify(done.path).difference.acceptable
    before, after = transformers.AutoModel.from_pretrained(folder).eval(), sinkquant.load(done.path)
    words = torch.arange(3, 12)[None]
    with torch.no_grad():
        texts = [model.get_text_features(words).pooler_output for model in (before, after)]
        pixels = TASKS[FEATURES].probe(before).tensors["pixel_values"]
        images = [model.get_image_features(pixels).pooler_output for model in (before, after)]
        scores = [model(input_ids=words, pixel_values=pixels).logits_per_image for model in (before, after)]
    assert torch.allclose(*texts, atol=1e-5) and not torch.allclose(*images, atol=1e-5)
    assert torch.allclose(*scores, atol=0.05 * float(scores[0].abs().max()))
