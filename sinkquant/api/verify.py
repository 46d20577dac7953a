"""`verify`: the checkpoint again, in a fresh process, against what its manifest says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sinkquant.arguments import checked
from sinkquant.errors import SinkquantError, UsageError, unknown
from sinkquant.evaluation.probe import Difference, compare_probes
from sinkquant.formats.manifest import refuse_code
from sinkquant.formats.manifest import verify as verify_files

RUNTIMES = ("transformers", "vllm")


@dataclass(frozen=True)
class Verification:
    """`files` have the bytes that were written, and `runtime` computes what was measured when they were.

    `sealed`: the manifest itself has a checksum; what version 0.1.0 wrote has none.
    """

    folder: str
    runtime: str
    files: int
    difference: Difference
    sealed: bool


@checked
def verify(path: str | Path, *, runtime: str = "transformers", trust_remote_code: bool = False) -> Verification:
    """Check all checksums, load the checkpoint in a new process and compare its probe with the manifest's.

    `trust_remote_code`: the Python code that the checkpoint has from its model may run.

    Raises SinkquantError where a file has changed, the runtime fails, or its losses are off by more than 0.02 nats a
    token on average (see `Difference.acceptable`); UsageError for an unknown runtime or one that is not installed.
    """
    if runtime not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    if find_spec(runtime) is None:
        raise UsageError(f"{runtime} is not installed here: install it beside sinkquant, or verify with transformers.")
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: give the folder that sinkquant quantize wrote.")
    manifest = verify_files(folder)
    refuse_code(folder, trust_remote_code)
    if manifest.probe is None:
        raise SinkquantError(f"the manifest of {folder} holds no probe to compare with: quantize the model again.")
    difference = compare_probes(manifest.probe.model_dump(), _fresh(folder, runtime, trust_remote_code))
    if not difference.acceptable:
        raise SinkquantError(
            f"{runtime} gives other losses than the manifest of {folder} states ({difference.mean:.3f} nats a token "
            f"apart, {difference.shift:+.3f} on average; {difference.limit:.3f} can be rounding): "
            "use the versions that the manifest names, or quantize again."
        )
    return Verification(str(folder), runtime, len(manifest.files), difference, manifest.format > 1)


def _fresh(folder: Path, runtime: str, trust_remote_code: bool) -> dict[str, Any]:
    """The probe by a new process, which imports nothing from the checkpoint or the working folder and asks nobody."""
    with TemporaryDirectory() as temporary:
        file = Path(temporary) / "answer.json"
        command = [sys.executable, "-P", "-m", "sinkquant.formats.reload", str(folder.absolute()), runtime, str(file)]
        command += ["trust-remote-code"] if trust_remote_code else []
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            cwd=temporary, env=_environment(),
        )  # fmt: skip
        if not file.is_file():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise SinkquantError(
                f"{runtime} cannot run {folder} ({reason}): see which runtimes can with sinkquant inspect."
            )
        answer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "error" in answer:
        raise SinkquantError(answer["error"])
    return answer


def _environment() -> dict[str, str]:
    """This process's own; the folders of PYTHONPATH mean what they meant here, and an empty one is no folder."""
    found = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(found)}
