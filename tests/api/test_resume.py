"""An interrupted run goes on where it stopped and ends with the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sinkquant
from sinkquant.checkpoint.cache import cache_root
from sinkquant.checkpoint.manifest import read_manifest

OVERRIDES = ["calibration.length=64", "calibration.sequences=4", "sinks.prefix=[1]"]


def test_ctrl_c_and_again(stories_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SINKQUANT_CACHE", str(tmp_path / "cache"))
    whole = tmp_path / "whole"
    sinkquant.quantize(stories_path, recipe="w4a4kv4", output=whole, overrides=OVERRIDES)
    assert not any((cache_root() / "unfinished").iterdir())

    seen: list[int] = []

    def stop_after_two(stage: str, done: int, total: int) -> None:
        if stage == "quantize":
            seen.append(done)
            if seen == [1, 2]:
                raise KeyboardInterrupt

    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        sinkquant.quantize(stories_path, recipe="w4a4kv4", output=target, overrides=OVERRIDES, progress=stop_after_two)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    (run,) = (cache_root() / "unfinished").iterdir()
    assert json.loads((run / "state.json").read_text().splitlines()[0])["blocks"] == 2

    seen.clear()
    sinkquant.quantize(stories_path, recipe="w4a4kv4", output=target, overrides=OVERRIDES, progress=stop_after_two)
    assert seen == [2, 3, 4, 5]
    assert read_manifest(target).files == read_manifest(whole).files
    assert not run.exists()
