"""`sinkquant --help` and `sinkquant recipes` import neither torch nor transformers."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("arguments", [["--help"], ["quantize", "--help"], ["--version"], ["recipes"]])
def test_light_commands_stay_light(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from sinkquant.cli.main import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        "print('heavy:', *sorted({'torch', 'transformers', 'matplotlib', 'datasets', 'numpy'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "heavy:"


def test_run_is_the_entry_point() -> None:
    code = "import sys; sys.argv = ['sinkquant', 'recipes', 'nope']; from sinkquant.cli.main import run; run()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown recipe 'nope': ")
    assert "Traceback" not in done.stderr
