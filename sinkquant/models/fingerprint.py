"""The identity of a model's content, by which a prefix or a result recognises the model that it was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sinkquant.models.source import Source, local_folder, weight_files


def fingerprint(source: Source) -> str:
    """'sha256:' and 64 hex digits of the model's content, independent of folder and file names.

    A GGUF file has the SHA-256 of its bytes. A folder or hub model has the SHA-256 over the SHA-256 of its config.json
    and of each weight file in order of their names.
    """
    folder = local_folder(source)
    if source.gguf_file is not None:
        return f"sha256:{_sha256(folder / source.gguf_file).hex()}"
    whole = hashlib.sha256()
    for file in (folder / "config.json", *weight_files(folder)):
        whole.update(_sha256(file))
    return f"sha256:{whole.hexdigest()}"


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
