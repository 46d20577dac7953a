"""Models that see and write: names of what photographs show, behind their own image and behind another."""

from __future__ import annotations

import json
from pathlib import Path

from eval.runs import ASSETS
from eval.tasks.images import PHOTOS
from eval.tasks.subject import BARE, Setting, Subject

LLAVA = ASSETS / "llava-tiny"
PROMPT = "User: <reponame>\nWhat is in the picture? Assistant: a photo of"
EVERY = 14  # th photograph by name is scored, 36 of 500


def lists() -> tuple[str, str]:
    """Two files with photographs, the question and the name: those of the calibration, and those that are scored."""
    files = ASSETS / "named-calibration.jsonl", ASSETS / "named-scored.jsonl"
    if PHOTOS.is_dir():
        photos = sorted(PHOTOS.glob("*.jpg"))
        scored = photos[::EVERY]
        for file, chosen in zip(files, ([one for one in photos if one not in scored], scored), strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(_row(photo)) + "\n" for photo in chosen), encoding="utf-8")
    return str(files[0]), str(files[1])


def _row(photo: Path) -> dict[str, str]:
    name = photo.stem.partition("_")[2].replace("_", " ")
    return {"image": str(photo), "prompt": PROMPT, "answer": f" {name}."}


CALIBRATION, SCORED = lists()
SUBJECTS = (
    Subject(
        "LLaVA of ViT-Tiny and SmolLM2-135M", "image-text", LLAVA, CALIBRATION, SCORED, 36,
        "Says what photographs show; every 14th by name is scored, on the tokens of the name and the stop behind it, "
        "and 64 of the others are calibrated on. The gap is what the names lose behind the image of another.",
        settings=(
            Setting("plain static W8A8", "w8a8-npu", (*BARE, "activations.modality=one")),
            Setting("plain static W8A8, images apart", "w8a8-npu", (*BARE, "activations.modality=own")),
            Setting("w8a8-static", "w8a8-static", goal=True),
            Setting("w8a8-static, one range for all", "w8a8-static", ("activations.modality=one",)),
            Setting("w8a8-static, images apart", "w8a8-static", ("activations.modality=own",)),
            Setting("w8a8-static, GPTQ", "w8a8-static", ("weights.method=gptq",), goal=True),
            Setting("w4a16, groups of 64", "w4a16", ("weights.group_size=64",)),
        ),
        goals={"kl": (0.02, 0.02)},
    ),
)  # fmt: skip
