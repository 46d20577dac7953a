"""`sinkquant.json`: what a checkpoint was made from and how, with a checksum of every other file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sinkquant.errors import SinkquantError

NAME = "sinkquant.json"
FORMAT = 1
CHUNK = 2**24  # bytes read at once: between two, a thread that hashes waits for the others' turns


def checksum(path: Path) -> str:
    """`sha256:…` of a file's bytes."""
    digest, part = hashlib.sha256(), memoryview(bytearray(min(CHUNK, max(path.stat().st_size, 1))))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(part):
            digest.update(part[:count])
    return "sha256:" + digest.hexdigest()


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a finished folder."""
    files = {p.name: checksum(p) for p in sorted(folder.iterdir()) if p.is_file() and p.name != NAME}
    text = json.dumps({"format": FORMAT, **facts, "files": files}, indent=2, ensure_ascii=False)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def amend_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest again with `facts` added, and new checksums."""
    kept = {key: value for key, value in read_manifest(folder).items() if key not in ("format", "files")}
    write_manifest(folder, kept | facts)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint."""
    path = folder / NAME
    if not path.is_file():
        raise SinkquantError(f"{folder} has no {NAME}: give a folder that sinkquant quantize wrote.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SinkquantError(f"{path} is no valid JSON: write the checkpoint again.") from error
    if manifest.get("format") != FORMAT:
        raise SinkquantError(
            f"{path} has format {manifest.get('format')}: install the sinkquant version that wrote it."
        )
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """Compare every file with its checksum; returns the manifest."""
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise SinkquantError(f"{folder} lacks {name}: copy the checkpoint again.")
        if checksum(path) != expected:
            raise SinkquantError(f"{path} has changed (its checksum is not {expected}): copy the checkpoint again.")
    return manifest
