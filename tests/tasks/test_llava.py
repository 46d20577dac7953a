"""A trained model that sees and writes: what static int8 must keep of it, on photographs that it did not see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sinkquant
from tests.conftest import CACHE, existing

PROMPT = "User: <reponame>\nWhat is in the picture? Assistant: a photo of"
CORNERS = {(0, 0), (0, 13), (13, 0), (13, 13)}


def named(photos: list[Path], file: Path) -> Path:
    rows = (
        {"image": str(p), "prompt": PROMPT, "answer": f" {p.stem.partition('_')[2].replace('_', ' ')}."} for p in photos
    )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.long
def test_it_still_sees(shared_dir: Path, tmp_path: Path) -> None:
    model = existing(CACHE / "llava-tiny", "it is built of the shared assets")
    photos = sorted(
        existing(shared_dir / "assets/images/imagenet-sample-500", "it is part of the shared assets").iterdir()
    )
    scored = photos[::14]
    others = named([photo for photo in photos if photo not in scored], tmp_path / "calibration.jsonl")
    out = tmp_path / "out"
    done = sinkquant.quantize(
        model, recipe="w8a8-static", output=out, calibration=str(others), overrides=["calibration.sequences=4"]
    )
    assert done.report is not None and done.plan.prefix
    assert {sink.patch for sink in done.report.sinks if sink.patch is not None} >= CORNERS
    found = sinkquant.evaluate(out, baseline=model, data=named(scored, tmp_path / "scored.jsonl"), samples=36)
    assert found.kl is not None and found.kl < 0.03
    before, after = found.figures["image_gap"]
    assert before is not None and abs(after / before - 1) < 0.03
