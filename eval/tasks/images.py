"""Image classifiers: photographs against the float model's logits."""

from __future__ import annotations

import json
from pathlib import Path

from eval.runs import ASSETS, SHARED
from eval.tasks.subject import DYNAMIC, NPU, PLAIN, Setting, Subject

PHOTOS = SHARED / "images/imagenet-sample-500"
VIT = SHARED / "models/vit-tiny-patch16-224"
SIX = ("activations.bits=6", "weights.limit=31")  # codes from -31 to 31
FLOAT = 0.824  # top-1 of the model itself
FINE = ("weights.method=gptq", "activations.spikes=4")


def halves() -> tuple[str, str]:
    """Two files that list every second photograph, by name: those of the calibration, and those that are scored."""
    files = ASSETS / "photos-calibration.jsonl", ASSETS / "photos-scored.jsonl"
    if PHOTOS.is_dir():
        photos = sorted(PHOTOS.glob("*.jpg"))
        for file, chosen in zip(files, (photos[1::2], photos[::2]), strict=True):
            _list(file, chosen)
    return str(files[0]), str(files[1])


def _list(file: Path, photos: list[Path]) -> None:
    rows = ({"image": str(photo), "label": int(photo.name.partition("_")[0])} for photo in photos)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


CALIBRATION, SCORED = halves()


def _vit(name: str, settings: tuple[Setting, ...], goals: dict[str, tuple[float, float]]) -> Subject:
    return Subject(
        f"ViT-Tiny, {name}", "image-classification", VIT, CALIBRATION, SCORED, 250,
        "ViT-Tiny/16 at 224 pixels, ImageNet-1k; 250 of 500 photographs are scored, every second one by name; "
        "80 of the others are calibrated on, 16 of them for the proof alone.",
        settings=settings, goals=goals,
    )  # fmt: skip


SUBJECTS = (
    _vit("W8A8", (PLAIN, DYNAMIC, NPU), {"kl": (0.006, 0.003), "accuracy": (FLOAT - 0.006, FLOAT - 0.002)}),
    _vit(
        "W6A6",
        (
            Setting("plain static W6A6", "w8a8-npu", (*PLAIN.overrides, *SIX)),
            Setting("W6A6, four units, GPTQ", "w8a8-npu", (*SIX, *FINE), goal=True),
        ),
        {"kl": (0.08, 0.08), "accuracy": (FLOAT - 0.015, FLOAT - 0.015)},
    ),
    _vit(
        "W4A8",
        (
            Setting("plain static W4A8", "w8a8-npu", (*PLAIN.overrides, "weights.bits=4")),
            Setting("W4A8, four units, GPTQ", "w8a8-npu", ("weights.bits=4", *FINE), goal=True),
        ),
        {"accuracy": (FLOAT - 0.03, FLOAT - 0.03)},
    ),
)
