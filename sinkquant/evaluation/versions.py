"""The software that a figure was measured with."""

from __future__ import annotations

import hashlib
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "transformers", "compressed-tensors", "sinkquant")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a figure."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def code_digest(model: object) -> str:
    """SHA-256 over this package's Python files and, for a model of remote code, over those beside its class."""
    folders = [Path(__file__).parents[1]]
    name = type(model).__module__
    if name.startswith("transformers_modules."):  # where transformers copies remote code to
        folders.append(Path(str(sys.modules[name].__file__)).parent)
    whole = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            content = file.read_bytes()
            whole.update(f"{file.relative_to(folder)} {len(content)}\n".encode() + content)
    return whole.hexdigest()
