"""How config.json and the manifest of a checkpoint hold each other.

The checksum of sinkquant.json stands in config.json, under the key `sinkquant`; the checksum of config.json, in
sinkquant.json, is that of its bytes with zeros in the place of those digits. So no bit of either changes unseen.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from sinkquant.errors import SinkquantError
from sinkquant.models.json_file import parse_object, read_bytes

NAME, CONFIG = "sinkquant.json", "config.json"
KEY, OWN = "sinkquant", "manifest_checksum"
NO_DIGITS = "sha256:" + "0" * 64
AGAIN = "copy the checkpoint again"
_DIGITS = re.compile(rb'("manifest_checksum": "sha256:)([0-9a-f]{64})(")')


def sha256(content: bytes) -> str:
    """`sha256:…` of bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def stated_checksum(config: bytes) -> str | None:
    """The checksum of the manifest that a config.json states; those of format 1 state none."""
    found = _DIGITS.search(config)
    return f"sha256:{found[2].decode()}" if found else None


def with_digits(config: bytes, own: str) -> bytes:
    """config.json with `own` as the checksum of the manifest, where it states one."""
    return _DIGITS.sub(rb"\g<1>" + own.removeprefix("sha256:").encode() + rb"\g<3>", config)


def changed(path: Path, expected: str) -> SinkquantError:
    """The error for a file with another checksum."""
    return SinkquantError(f"{path} has changed (its checksum is not {expected}): {AGAIN}.")


def refuse_other_files(weights: Iterable[str]) -> None:
    """What costs little to check when transformers loads weight files by itself: SinkquantError where manifest or
    config.json beside them have changed, or the manifest does not list one of them.

    Checkpoints of format 1, copies that `save_pretrained` wrote, and what the hub's client downloads without the
    manifest have nothing to compare with.
    """
    for folder in {Path(weight).parent for weight in weights}:
        config = read_bytes(folder / CONFIG, AGAIN)
        stated = stated_checksum(config)
        if stated is None or (folder.parent.name == "snapshots" and not (folder / NAME).exists()):
            continue
        text = read_bytes(folder / NAME, AGAIN)
        if sha256(text) != stated:
            raise changed(folder / NAME, stated)
        files = parse_object(text, folder / NAME, AGAIN)["files"]
        if sha256(with_digits(config, NO_DIGITS)) != files[CONFIG]:
            raise changed(folder / CONFIG, files[CONFIG])
        for name in sorted(Path(weight).name for weight in weights if Path(weight).parent == folder):
            if name not in files:
                raise SinkquantError(f"{folder} holds {name}, which {NAME} does not list: remove it, or {AGAIN}.")
