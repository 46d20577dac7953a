"""A full disk at any moment: one sentence, and what was there before stays as it was."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

import sinkquant
from sinkquant.flow.result import Result
from sinkquant.formats.manifest import verify

OVERRIDES = ("sinks.prefix=none", "sinks.exclude=false")


def test_while_writing(quantize_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    quantize_tiny(out, "kv4", *OVERRIDES)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def half(model: PreTrainedModel, folder: Path, **_: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", half)
    for target, overwrite in ((out, True), (tmp_path / "new", False)):
        with pytest.raises(sinkquant.SinkquantError, match="no space is left for"):
            quantize_tiny(target, "kv4", *OVERRIDES, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    verify(out)


def test_before_the_start(
    quantize_tiny: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
    with pytest.raises(sinkquant.SinkquantError, match=r"has 0 MB left and the checkpoint needs \d+ MB: free some"):
        quantize_tiny(tmp_path / "out", "kv4", *OVERRIDES)
    assert list(tmp_path.iterdir()) == []
