"""A short run of `eval.kills`: ended at any moment, the same command gives the same bytes and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_kills_lose_nothing() -> None:
    command = [sys.executable, "-m", "eval.kills", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("'equal': True, 'left': 0") == 3
