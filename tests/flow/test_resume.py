"""An interrupted run goes on where it stopped and ends with the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import sinkquant
from sinkquant.flow.result import Result
from sinkquant.formats.cache import cache_root
from sinkquant.formats.manifest import read_manifest


def test_ctrl_c_and_again(
    quantize_tiny: Callable[..., Result],
    model_folder: Path,
    unseen_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SINKQUANT_CACHE", str(tmp_path / "cache"))
    whole = tmp_path / "whole"
    quantize_tiny(whole, "w4a4kv4", "sinks.prefix=[1]")
    assert not any((cache_root() / "unfinished").iterdir())

    seen: list[int] = []

    def stop_after_two(stage: str, done: int, total: int) -> None:
        if stage == "quantize":
            seen.append(done)
            if seen == [1, 2]:
                raise KeyboardInterrupt

    target = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        quantize_tiny(target, "w4a4kv4", "sinks.prefix=[1]", progress=stop_after_two)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []
    (run,) = (cache_root() / "unfinished").iterdir()
    assert json.loads((run / "state.json").read_text().splitlines()[0])["blocks"] == 2

    seen.clear()
    quantize_tiny(target, "w4a4kv4", "sinks.prefix=[1]", progress=stop_after_two)
    assert seen == [2, 3]
    assert read_manifest(target).files == read_manifest(whole).files
    assert not run.exists()
    against = sinkquant.evaluate(target, baseline=model_folder, text=str(unseen_text), window=64, max_tokens=640)
    assert against.kl < 0.1
