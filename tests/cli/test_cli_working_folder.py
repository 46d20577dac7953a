"""The working folder may be a stranger's: nothing is imported from it, and nothing is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = "from sinkquant.cli.main import run; run()"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A checkpoint beside packages that leave a mark when they are imported."""
    folder = shutil.copytree(ROOT / "tests" / "fixtures" / "v0.1.0" / "sink-aware", tmp_path / "checkpoint")
    for name in ("torch", "transformers", "numpy", "safetensors", "compressed_tensors", "matplotlib"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("import os\nopen(os.environ['MARK'], 'w').close()\nos._exit(9)\n")
    return folder


@pytest.mark.parametrize("arguments", [("verify", "."), ("inspect", "."), ("evaluate", ".", "--baseline", "none")])
@pytest.mark.parametrize("path", [str(ROOT), f"{ROOT}{os.pathsep}"])  # the second has an empty entry
def test_nothing_is_imported_from_it(arguments: tuple[str, ...], path: str, hostile: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    env = os.environ | {"PYTHONPATH": path, "MARK": str(mark)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=hostile, env=env, input="y\n" * 9, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert not mark.exists()
    assert done.returncode == (2 if arguments[0] == "evaluate" else 0), done.stderr
