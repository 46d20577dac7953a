"""`quantize`: detect, plan, transform, quantize, export, prove."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sinkquant.arguments import checked
from sinkquant.errors import UsageError
from sinkquant.flow.choose import choose
from sinkquant.flow.estimate import Estimate
from sinkquant.flow.plan import Plan
from sinkquant.flow.result import Options, Result
from sinkquant.flow.run import run
from sinkquant.formats.finished import Unfinished
from sinkquant.formats.folder import claim
from sinkquant.models.source import local_place, resolve
from sinkquant.progress import StageProgress
from sinkquant.recipes import Recipe, load_recipe, overridden
from sinkquant.recipes.candidates import candidate, refuse_both


@checked
@torch.inference_mode(False)
@torch.enable_grad()
def quantize(
    model: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    bits: int | None = None,
    target: str | None = None,
    output: str | Path | None = None,
    overrides: Sequence[str] = (),
    calibration: str | Path | None = None,
    task: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    trust_remote_code: bool = False,
    progress: StageProgress | None = None,
    planned: Callable[[Plan, Estimate], None] | None = None,
) -> Result:
    """Quantize `model` (folder, hub id, .gguf, package:NAME) after `recipe` and write the checkpoint to `output`.

    Without a recipe `bits` of the weights (4 or 8, default 8), `target` ("sink-aware" or "portable") and detection
    choose one, and what plain quantization does better on held-out text is written plain. `dry_run` stops after the
    plan. `planned` gets plan and cost estimate before work starts. `overwrite` replaces an empty folder or a
    checkpoint, nothing else; a place that cannot be written is refused before the work. Errors are SinkquantError.
    """
    refuse_both(recipe, bits, target)
    if output is None and not dry_run:
        raise UsageError("no output folder is named: pass output=… or -o FOLDER.")
    text = None if calibration is None else str(calibration)
    options = Options(None, task, text, dry_run, progress, planned)
    named = None
    if recipe is not None:
        named = overridden(recipe, overrides) if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    else:
        load_recipe(
            candidate(bits, target), overrides
        )  # what is wrong with the wishes is said before the model is read

    source = resolve(model, trust_remote_code)

    def work(options: Options, stores: Unfinished) -> Result:
        if named is not None:
            return run(source, named, options, stores)
        return choose(source, bits, target, overrides, options, stores)

    if dry_run or output is None:
        return work(options, Unfinished())
    with Unfinished() as stores, claim(output, overwrite=overwrite, source=local_place(source)) as claimed:
        result = work(replace(options, output=claimed.new), stores)
        assert result.path is not None
        path = claimed.publish(result.path)
        stores.clear()  # only now: an interrupted comparison of recipes must not cost the first one's blocks
    return replace(result, path=path)
