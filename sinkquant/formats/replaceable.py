"""What `--overwrite` may replace: an empty folder, or a checkpoint, complete or broken, and nothing else."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from sinkquant.formats.manifest import NAME
from sinkquant.models.side_files import SIDE_FILE

# What a checkpoint holds by name beside its side files, for one whose manifest is broken and can list nothing.
_WRITTEN = re.compile(r"sinkquant\.json|config\.json|model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")


def why_kept(folder: Path) -> str | None:
    """Why `folder` must not be replaced, as a clause that begins with "it"; None where it may be."""
    held = sorted(_entries(folder))
    if not held:
        return None
    if NAME not in held:
        return f"it holds files and no {NAME}, so sinkquant did not write it"
    listed = _listed(folder / NAME)
    if listed is None and not _is_quantized(folder / "config.json"):
        return f"its {NAME} is broken and its config.json is that of a model which is not quantized"
    for name in held:
        known = name == NAME or (
            _WRITTEN.fullmatch(name) or SIDE_FILE.fullmatch(name) if listed is None else name in listed
        )
        if not known or os.path.isdir(folder / name):
            return f"it holds {name!r}, which is no part of the checkpoint"
    return None


def _entries(folder: Path) -> list[str]:
    """Every file and empty folder in `folder`, relative to it; a link is one entry. Raises what cannot be read."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for root, folders, files in os.walk(folder, onerror=fail):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        found += [os.path.join(root, name) for name in (*files, *links)]
        if not folders and not files and root != str(folder):
            found.append(root)
    return [os.path.relpath(path, folder) for path in found]


def _listed(manifest: Path) -> set[str] | None:
    """The files that a manifest lists, None if it is broken."""
    content = _json(manifest)
    files = content.get("files") if isinstance(content, dict) else None
    return set(files) if isinstance(files, dict) else None


def _is_quantized(config: Path) -> bool:
    """Whether a config.json is a checkpoint's; a missing or broken one may be."""
    content = _json(config)
    return not isinstance(content, dict) or bool({"sinkquant", "quantization_config"} & content.keys())


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
