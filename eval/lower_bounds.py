"""The lowest versions that pyproject.toml allows, tried in an environment of their own.

    python -m eval.lower_bounds [FOLDER]

makes a virtual environment in FOLDER (a temporary one without it), installs the lower bound of every dependency, and
there quantizes, loads and verifies a tiny model with a recipe of each kind. torch stays at the version of
constraints.txt: older ones would bring another platform's libraries along.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {"w8a8-static": ("sinks.prefix=[1]",), "w4a8kv4": (), "w8a8": (), "w4a16": ("weights.group_size=16",)}
SMALL = ("calibration.length=64", "calibration.sequences=4", "tuning.epochs=0")


def bounds(dependencies: Iterable[str], pinned: Iterable[str]) -> list[str]:
    """`name==version` for every `name>=version`; torch as it is `pinned`."""
    fixed = {line.partition("==")[0]: line for line in pinned}
    found = [re.fullmatch(r"([\w-]+)>=([\w.]+)", line) for line in dependencies]
    lowest = [match.groups() for match in found if match is not None]
    if len(lowest) < len(found):
        raise SystemExit("every dependency of pyproject.toml must have the form NAME>=VERSION")
    return [fixed[name] if name == "torch" else f"{name}=={version}" for name, version in lowest]


def install(folder: Path) -> Path:
    """An environment with exactly the lower bounds; returns its Python."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = bounds(project["dependencies"], (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(ROOT)], check=True)
    return python


def smoke(folder: Path) -> None:
    """What has to work: every kind of checkpoint is made, loaded, run and verified; the command starts."""
    import torch
    import transformers

    import sinkquant
    from tests import tiny

    model = tiny.save(tiny.random_llama(), folder / "model")
    (folder / "text.txt").write_text(tiny.sentences(2000, seed=0), encoding="utf-8")
    for recipe, wishes in RECIPES.items():
        out = folder / recipe
        done = sinkquant.quantize(
            model, recipe=recipe, output=out, overrides=[*SMALL, *wishes], calibration=str(folder / "text.txt")
        )
        for execution in ("reference", "auto"):
            sinkquant.load(out, execution=execution).generate(torch.tensor([[5, 6, 7]]), max_new_tokens=2)
        transformers.AutoModelForCausalLM.from_pretrained(out)(torch.tensor([[5, 6, 7]]))
        sinkquant.verify(out)
        print(f"{recipe}: perplexity {done.figures['result_perplexity']:.1f}", flush=True)
    subprocess.run(
        [Path(sys.executable).with_name("sinkquant"), "inspect", folder / recipe], check=True, capture_output=True
    )


def main() -> None:
    """Install, then run the smoke test there."""
    if sys.argv[1:2] == ["--smoke"]:
        return smoke(Path(sys.argv[2]))
    with tempfile.TemporaryDirectory() as work:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(work) / "environment"
        python = install(folder)
        subprocess.run([python, "-m", "pip", "list"], check=True)
        command = [python, "-m", "eval.lower_bounds", "--smoke", work]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SINKQUANT_CACHE": work, "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, check=True, cwd=ROOT, env=environment) and None


if __name__ == "__main__":
    main()
