"""auto-round: its recipes for W4A16 and its INT8 scheme, with as many tokens and steps as two cores allow.

The default recipe (200 steps of 8 × 2048 tokens a block) takes hours on two cores; `light` is its documented
short one (50 steps, learning rate 5e-3), run on one sequence a step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from eval.peers.plain import load as load
from eval.peers.setting import ADAPTED, DEFAULT, OPTION, Setting

PACKAGES = ("auto-round", "accelerate")
OURS_LOADS = True  # written in the format of llm-compressor
LENGTH = 512
LIGHT = {"iters": 50, "lr": 5e-3}
RTN = {"iters": 0}

SETTINGS = (
    Setting("W4A16", "optimized rounding, groups of 128", DEFAULT, lambda: {"scheme": "W4A16", **RTN}),
    Setting("W4A16", "optimized rounding, groups of 64", ADAPTED, lambda: {"scheme": "W4A16", "group_size": 64, **RTN}),
    Setting("W8A8", "optimized rounding, dynamic", OPTION, lambda: {"scheme": "INT8", **RTN}),
    Setting("W4A16", "light, groups of 64, 1 sequence a step", ADAPTED,
            lambda: {"scheme": "W4A16", "group_size": 64, **LIGHT}),
)  # fmt: skip


def quantize(options: dict[str, Any], folder: Path, calibration: Tensor) -> Any:
    """An AutoRound object: quantizing and saving are one step of it."""
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    pieces = list(calibration.reshape(-1, LENGTH).split(1))
    return AutoRound(
        load(folder), AutoTokenizer.from_pretrained(folder), dataset=pieces, nsamples=len(pieces),
        seqlen=LENGTH, batch_size=1, enable_torch_compile=False, device_map="cpu", **options,
    )  # fmt: skip


def save(model: Any, folder: Path) -> None:
    """Its own folder, named after the model, is inside the one it is told: what it holds is moved up."""
    model.quantize_and_save(output_dir=str(folder), format="llm_compressor")
    made = next(folder.rglob("config.json")).parent
    for file in () if made == folder else list(made.iterdir()):
        file.rename(folder / file.name)
