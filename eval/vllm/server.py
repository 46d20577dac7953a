"""An OpenAI-compatible server of vLLM on the loopback address, asked over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 600  # seconds until it must be up


@contextmanager
def served(python: Path, checkpoint: Path, environment: dict[str, str], log: Path) -> Iterator[str]:
    """The address of a server that stops with the context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `vllm serve` of this build asks for a package named vllm, which it is not.
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint]
    command += ["--served-model-name", "model", "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "1024", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(c) for c in command], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(address, process, log)
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def ask(address: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and answer of a POST."""
    data = json.dumps({"model": "model", **body}).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(PATIENCE // 2):
        if process.poll() is not None:
            raise RuntimeError(f"the server stopped; its last words are in {log}")
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(2)
    raise RuntimeError(f"the server was not up after {PATIENCE} s; see {log}")
