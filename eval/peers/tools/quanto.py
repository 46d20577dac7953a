"""optimum-quanto: the workflow of its README: quantize, calibrate with its momentum, freeze, save, load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from eval.peers import plain
from eval.peers.setting import BEST, DEFAULT, OPTION, Setting

PACKAGES = ("optimum-quanto", "transformers", "accelerate")
OURS_LOADS = False

SETTINGS = (
    Setting("W8A8", "int8, static per tensor", DEFAULT, lambda: {"weights": "qint8", "activations": "qint8"}),
    Setting("W8A8", "int8, float8 activations", BEST, lambda: {"weights": "qint8", "activations": "qfloat8"}),
    Setting("W4A16", "int4", DEFAULT, lambda: {"weights": "qint4"}),
    Setting("W4A8", "int4, static int8 per tensor", OPTION, lambda: {"weights": "qint4", "activations": "qint8"}),
)


def quantize(options: dict[str, str], folder: Path, calibration: Tensor) -> Any:
    """The frozen model; ranges of activations come from the calibration windows."""
    from optimum import quanto

    model = plain.load(folder)
    types = {name: getattr(quanto, kind) for name, kind in options.items()}
    quanto.quantize(model, exclude="lm_head", **types)
    if "activations" in options:
        with quanto.Calibration(momentum=0.9):
            plain.run(model, calibration)
    quanto.freeze(model)
    return model


def save(model: Any, folder: Path) -> None:
    from optimum.quanto import QuantizedModelForCausalLM

    QuantizedModelForCausalLM(model).save_pretrained(folder)


def load(folder: Path) -> Any:
    from optimum.quanto import QuantizedModelForCausalLM

    return QuantizedModelForCausalLM.from_pretrained(folder)._wrapped
