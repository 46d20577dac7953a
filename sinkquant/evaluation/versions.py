"""The software that a figure was measured with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "transformers", "compressed-tensors", "sinkquant")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a figure."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
