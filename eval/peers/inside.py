"""What runs in an environment: `python -m eval.peers.inside JOB.json RESULT.json`.

A job names the peer and the setting, the step (`quantize` or `score`), the model, the calibration windows, the text
windows, how many tokens at their beginning are not text, and the folder of the checkpoint.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from eval.peers import plain
from eval.peers.setting import Setting
from eval.peers.tools import PEERS

COMMON = ("torch", "transformers", "compressed-tensors")


def quantize(job: dict[str, Any], peer: Any, setting: Setting) -> dict[str, Any]:
    """Quantize and save: seconds of both with loading, peak memory, versions; the perplexity before saving if asked."""
    from sinkquant.evaluation.score import evaluate_one
    from sinkquant.flow.timing import peak_memory

    folder = Path(job["folder"])
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    found: dict[str, Any] = {"versions": versions(peer.PACKAGES), "threads": torch.get_num_threads()}
    start = time.perf_counter()
    model = peer.quantize(setting.options(), Path(job["model"]), torch.tensor(job["calibration"]))
    seconds = time.perf_counter() - start
    found["peak_bytes"] = peak_memory()
    if setting.in_memory:
        scored = evaluate_one(model.eval(), torch.tensor(job["text"]), scored=slice(1 + job["lead"], None))
        found["in_memory"] = scored.perplexity
    start = time.perf_counter()
    peer.save(model, folder)
    return found | {"seconds": seconds + time.perf_counter() - start}


def score(job: dict[str, Any], peer: Any, setting: Setting) -> dict[str, Any]:
    """The checkpoint against full precision."""
    from sinkquant.evaluation.compare import compare

    windows = torch.tensor(job["text"])
    baseline, result = plain.load(Path(job["model"])), peer.load(Path(job["folder"]))
    scored = slice(1 + job["lead"], None)
    found = compare(baseline, result, windows, windows, scored=scored, text=job["name"]).model_dump(mode="json")
    return {"scored_with" if name == "versions" else name: value for name, value in found.items()}


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of what a peer consists of, as far as it is installed."""
    found = {}
    for package in dict.fromkeys((*packages, *COMMON)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Do the job."""
    job = json.loads(Path(sys.argv[1]).read_text())
    peer = PEERS[job["peer"]]
    setting = next(
        setting for setting in peer.SETTINGS if setting.name == job["setting"] and setting.group == job["group"]
    )
    step = {"quantize": quantize, "score": score}[job["step"]]
    Path(sys.argv[2]).write_text(json.dumps(step(job, peer, setting)))


if __name__ == "__main__":
    main()
