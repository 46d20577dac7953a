"""`sinkquant.json`: what a checkpoint was made from and how, with a checksum of every other file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.formats.facts import Manifest, complaint
from sinkquant.formats.format import FORMATS
from sinkquant.models.json_file import parse_object, read_bytes
from sinkquant.models.seal import (
    AGAIN,
    CONFIG,
    KEY,
    NAME,
    NO_DIGITS,
    OWN,
    changed,
    sha256,
    stated_checksum,
    with_digits,
)  # fmt: skip
from sinkquant.models.side_files import brings_code

FORMAT = 2
"""1, which is read as well, had no checksum of the manifest itself."""

CHUNK = 2**24  # bytes read at once: between two, a thread that hashes waits for the others' turns

# Beside a checkpoint these may lie unlisted: no loader reads them.
_HARMLESS = re.compile(r"\..*|.*\.(md|html|pdf|png|jpe?g|gif|svg|log)|(LICEN[CS]E|NOTICE|COPYING)[\w.-]*", re.DOTALL)
_READ_FOLDERS = ("additional_chat_templates", "custom_generate")


def checksum(path: Path) -> str:
    """`sha256:…` of a file's bytes."""
    digest, part = hashlib.sha256(), memoryview(bytearray(min(CHUNK, max(path.stat().st_size, 1))))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(part):
            digest.update(part[:count])
    return "sha256:" + digest.hexdigest()


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a finished folder."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    _write(folder, facts, {name: checksum(folder / name) for name in names if name not in (NAME, CONFIG)})


def amend_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest again with `facts` added; the files have the checksums that they were written with."""
    kept = read_manifest(folder).model_dump(exclude_unset=True)
    _write(folder, kept | facts, kept["files"])


def _write(folder: Path, facts: dict[str, Any], files: dict[str, str]) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config[KEY] = {**(config.get(KEY) or {}), OWN: NO_DIGITS}
    blank = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    listed = dict(sorted({**files, CONFIG: sha256(blank)}.items()))
    content = {"format": FORMAT} | facts | {"format": FORMAT, "files": listed}
    # A name that is no UTF-8 becomes an escape, which JSON reads as the same name.
    text = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    (folder / NAME).write_bytes(text)
    (folder / CONFIG).write_bytes(with_digits(blank, sha256(text)))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, after a look at it and config.json: neither has changed, or SinkquantError."""
    path = folder / NAME
    if not os.path.isfile(path):
        raise SinkquantError(f"{folder} has no {NAME}: give a folder that sinkquant quantize wrote.")
    text, config = read_bytes(path, AGAIN), read_bytes(folder / CONFIG, AGAIN)
    stated = stated_checksum(config)
    if stated not in (None, sha256(text)):
        raise SinkquantError(f"{path} has changed (its checksum is not {stated}): {AGAIN}.")
    content = parse_object(text, path, AGAIN)
    if content.get("format") not in (1, FORMAT):
        raise SinkquantError(f"{path} has format {content.get('format')!r:.40}: install the version that wrote it.")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise SinkquantError(f"{path} is no manifest ({complaint(error)}): {AGAIN}.") from error
    target = manifest.recipe.target
    if target not in FORMATS:
        known = ", ".join(FORMATS)
        raise SinkquantError(f"{path} names the format {target!r:.40}, of {known}: register it first, or {AGAIN}.")
    if not any(name.endswith(FORMATS[target].weights) for name in manifest.files):
        raise SinkquantError(f"{path} is no manifest (the list of files lacks the weights): {AGAIN}.")
    if manifest.format == FORMAT and stated is None:
        raise SinkquantError(f"{folder / CONFIG} has changed, it states no checksum of {NAME}: {AGAIN}.")
    expected = manifest.files[CONFIG]
    if sha256(with_digits(config, NO_DIGITS)) != expected:
        raise changed(folder / CONFIG, expected)
    return manifest


def refuse_unlisted(folder: Path, manifest: Manifest) -> None:
    """Raise SinkquantError for a file that a loader might read although the manifest does not list it."""
    for name in sorted(_present(folder)):
        if name not in manifest.files and name != NAME:
            raise SinkquantError(f"{folder} holds {name}, which {NAME} does not list: remove it, or {AGAIN}.")


def refuse_code(folder: Path, trust_remote_code: bool) -> None:
    """Raise UsageError for a checkpoint with Python code, its own or another's, that nobody allowed to run."""
    if not trust_remote_code and brings_code(folder):
        raise UsageError(
            f"{folder} brings Python code of its model that would run on this machine: read it, then allow it with "
            "--trust-remote-code (trust_remote_code=True)."
        )


def _present(folder: Path) -> Iterator[str]:
    """Files that a loader might read, by their path in `folder`."""
    with os.scandir(folder) as entries:
        yield from (one.name for one in entries if not one.is_dir() and not _HARMLESS.fullmatch(one.name))
    for read in _READ_FOLDERS:
        for root, _, files in os.walk(folder / read):
            yield from (Path(root, name).relative_to(folder).as_posix() for name in files)


def check_files(folder: Path, manifest: Manifest, names: Iterable[str]) -> None:
    """Compare the files of these names with their checksums; SinkquantError names one that is missing or differs."""
    for name in names:
        path, expected = folder / name, manifest.files[name]
        if not os.path.isfile(path):
            raise SinkquantError(f"{folder} lacks {name}: {AGAIN}.")
        if name != CONFIG and checksum(path) != expected:  # config.json was compared when the manifest was read
            raise changed(path, expected)


def verify(folder: Path) -> Manifest:
    """Compare every file with its checksum, and refuse those without one; returns the manifest."""
    manifest = read_manifest(folder)
    refuse_unlisted(folder, manifest)
    check_files(folder, manifest, manifest.files)
    return manifest
