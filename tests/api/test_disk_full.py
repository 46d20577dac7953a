"""A full disk at any moment: one sentence, and what was there before stays as it was."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedModel

import sinkquant
from sinkquant.checkpoint.manifest import verify

OVERRIDES = ["calibration.length=64", "calibration.sequences=4", "sinks.prefix=none", "sinks.exclude=false"]


def test_while_writing(stories_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    sinkquant.quantize(stories_path, recipe="kv4", output=out, overrides=OVERRIDES)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def half(model: PreTrainedModel, folder: Path, **_: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", half)
    for target, overwrite in ((out, True), (tmp_path / "new", False)):
        with pytest.raises(sinkquant.SinkquantError, match="no space is left for"):
            sinkquant.quantize(stories_path, recipe="kv4", output=target, overrides=OVERRIDES, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    verify(out)


def test_before_the_start(stories_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
    with pytest.raises(sinkquant.SinkquantError, match=r"has 0 MB left and the checkpoint needs \d+ MB: free some"):
        sinkquant.quantize(stories_path, recipe="kv4", output=tmp_path / "out", overrides=OVERRIDES)
    assert list(tmp_path.iterdir()) == []
