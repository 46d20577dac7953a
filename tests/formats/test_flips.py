"""A short run of `eval.flips`: `load` and `verify` notice any changed bit of any file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval.flips import flipped, try_flips
from sinkquant.formats.manifest import write_manifest

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "v0.1.0"


@pytest.mark.parametrize("kind", ["sink-aware", "portable"])
def test_every_flip_is_refused(kind: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / kind, tmp_path / kind)
    write_manifest(folder, json.loads((folder / "sinkquant.json").read_text()))
    rows = try_flips(folder, 30, seed=1)
    assert len(rows) == 6
    for row in rows:
        assert row["flips"] == row["load"] == row["verify"] == 5, row


def test_one_bit_is_changed_and_changed_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x00\x01")
    with flipped(path, 9):
        assert path.read_bytes() == b"\x00\x03"
    assert path.read_bytes() == b"\x00\x01"
