"""The real ViT-Tiny: what static int8 without anything online must keep of it, on photographs that it did not see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sinkquant
from tests.conftest import existing

FINE = ("weights.method=gptq", "activations.spikes=4")
# What is set beside the recipe, the largest KL in nats, and the share of right classes that may be lost.
CASES: dict[str, tuple[tuple[str, ...], float, float]] = {
    "W8A8": ((), 0.006, 0.006),
    "W6A6": (("activations.bits=6", "weights.limit=31", *FINE), 0.08, 0.015),
    "W4A8": (("weights.bits=4", *FINE), 0.15, 0.03),
}


@pytest.fixture(scope="module")
def halves(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Lists of every second photograph: for the calibration, and those that are scored."""
    photos = sorted(
        existing(shared_dir / "assets/images/imagenet-sample-500", "it is part of the shared assets").iterdir()
    )
    folder = tmp_path_factory.mktemp("halves")
    files = folder / "calibration.jsonl", folder / "scored.jsonl"
    for file, chosen in zip(files, (photos[1::2], photos[::2]), strict=True):
        rows = ({"image": str(photo), "label": int(photo.name[:4])} for photo in chosen)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


@pytest.mark.parametrize("case", ["W8A8", *(pytest.param(name, marks=pytest.mark.long) for name in ("W6A6", "W4A8"))])
def test_classes_stay(case: str, shared_dir: Path, halves: tuple[Path, Path], tmp_path: Path) -> None:
    overrides, kl, points = CASES[case]
    model = existing(shared_dir / "assets/models/vit-tiny-patch16-224", "it is part of the shared assets")
    calibration, scored = halves
    out = tmp_path / "out"
    sinkquant.quantize(model, recipe="w8a8-npu", output=out, calibration=str(calibration), overrides=list(overrides))
    found = sinkquant.evaluate(out, baseline=model, data=scored, samples=250)
    before, after = found.figures["accuracy"]
    assert found.windows == 250 and found.routed_rows is None
    assert found.kl is not None and found.kl <= kl
    assert before is not None and before - after <= points + 1e-6
