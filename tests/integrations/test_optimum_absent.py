"""sinkquant alone does not make anybody believe that optimum is installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_our_wheel_holds_our_package_alone() -> None:
    """A file of ours under optimum/ makes transformers believe that optimum is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {Path(place).parts[0] for place in (*wheel["packages"], *wheel["force-include"].values())} == {"sinkquant"}


def test_import_changes_nothing_for_transformers() -> None:
    code = (
        "from importlib.util import find_spec\n"
        "before = find_spec('optimum') is not None\n"
        "import sinkquant, transformers.utils\n"
        "sinkquant.load, sinkquant.quantize\n"
        "print(before == transformers.utils.is_optimum_available() == (find_spec('optimum') is not None))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
