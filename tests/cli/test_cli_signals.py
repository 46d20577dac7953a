"""Signals that end a command leave nothing half done, and the shell hears which one it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WAITS = """
import os, signal, sys
import sinkquant.recipes
from sinkquant.formats.folder import claim
from sinkquant.cli.main import app

def work():
    with claim(sys.argv[1]) as claimed:
        claimed.new.mkdir()
        os.kill(os.getpid(), int(sys.argv[2]))
        (claimed.new / "went on").touch()
        claimed.publish(claimed.new)
    return ()

if sys.argv[3] == "nohup":
    signal.signal(int(sys.argv[2]), signal.SIG_IGN)
sinkquant.recipes.list_recipes = work
app(["recipes"])
"""


def end(out: Path, number: int, how: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WAITS, str(out), str(int(number)), how]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up(number: int, tmp_path: Path) -> None:
    done = end(tmp_path / "out", number)
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == "interrupted: run the same command again to go on\n"
    assert os.listdir(tmp_path) == []


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    assert end(tmp_path / "out", signal.SIGHUP, "nohup").returncode == 0
    assert os.listdir(tmp_path / "out") == ["went on"]
