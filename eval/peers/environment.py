"""An environment for every peer: it brings its own versions of everything but torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from eval.runs import ASSETS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ASSETS / "eval" / "peers"
LIMIT = 1800  # seconds a step may take
SCORING = ("compressed-tensors", "pydantic", "wrapt")  # what our scoring code imports beside torch and transformers


class Failed(Exception):
    """A step of a peer went wrong; the text is its message without places of this machine."""


def build(peer: str, packages: Sequence[str], folder: Path = FOLDER) -> Path:
    """The Python of the peer's environment, installed from PyPI where it is missing."""
    home = folder / peer
    python, done = home / "bin" / "python", home / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
        call([python, "-m", "pip", "install", "-q", "--no-cache-dir", torch])
        call([python, "-m", "pip", "install", "-q", "--no-cache-dir", torch, *packages, *SCORING])
        done.write_text("\n".join(packages))
    return python


def call(command: Sequence[str | Path]) -> None:
    """Run a command in the repository's root; raises `Failed` with the last error it told, or after `LIMIT` seconds."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            [str(c) for c in command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"stopped after {LIMIT} s") from None
    if done.returncode:
        raise Failed(message(done.stderr) or f"ended with code {done.returncode}")


def message(text: str) -> str:
    """The last line that names an error, else the last line: folders become names, addresses go."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"([\w.]*(Error|Exception|Interrupt)\b|ERROR)", line)]
    last = (named or lines or [""])[-1]
    last = re.sub(r"\w+://\S+|host='[^']*'", "…", last)
    return shorten(re.sub(r"~?(?:/[\w.@+~-]+)+/([\w.@+-]+)", r"\1", last), 300, placeholder=" …")
