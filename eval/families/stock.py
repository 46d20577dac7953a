"""What transformers without sinkquant makes of the checkpoints: portable ones load bit for bit, others are refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from eval.runs import Row

RIGHT = ("equal", "close", "refused")


def run(folder: Path, recipes: Sequence[str], write: Callable[[Row], None]) -> None:
    """Hand a row a checkpoint below `folder` to `write`."""
    for recipe in recipes:
        write({"recipe": recipe, **load(folder / recipe)})


def load(out: Path) -> Row:
    """The fields of a row: `stock` is equal, close (with the largest difference), wrong, refused or not refused."""
    assert "sinkquant" not in sys.modules
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    portable = config["quantization_config"]["quant_method"] == "compressed-tensors"
    try:
        model, info = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
        stored = torch.load(out.with_suffix(".pt"))
        with torch.no_grad():
            got = model.eval()(input_ids=stored["ids"], use_cache=False).logits[0].float()
    except Exception as error:  # whatever a stock loader raises
        says = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return {"stock": "fails", "stock_says": says} if portable else {"stock": "refused"}
    if not portable:
        return {"stock": "not refused"}
    difference = float((got - stored["logits"]).abs().max() / stored["logits"].abs().max())
    lost = sorted(info["missing_keys"]) + sorted(info["unexpected_keys"])
    verdict = "equal" if torch.equal(got, stored["logits"]) else "close" if difference <= 1e-4 else "wrong"
    return {"stock": "wrong" if lost else verdict, "stock_difference": difference, "stock_lost": lost[:3]}
