"""Quantized models that benchmarks keep, so that a second run only measures."""

from __future__ import annotations

from pathlib import Path

from eval.runs import ASSETS

CACHE = ASSETS / "eval"


def checkpoint(model: Path, recipe: str, overrides: tuple[str, ...], cache: Path = CACHE) -> Path:
    """The folder of `model` quantized after `recipe`; made where it is missing."""
    import sinkquant
    from sinkquant.recipes import load_recipe

    folder = cache / f"{model.name}-{recipe}-{load_recipe(recipe, overrides).digest()[:12]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        sinkquant.quantize(model, recipe=recipe, overrides=overrides, output=folder)
    return folder
