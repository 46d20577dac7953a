"""`sinkquant quantize`: from a model to a smaller checkpoint that was compared with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sinkquant.cli.options import Calibration, Json, Model, TaskOption, TrustRemoteCode
from sinkquant.errors import UsageError

if TYPE_CHECKING:  # imports torch
    from sinkquant.flow.estimate import Estimate
    from sinkquant.flow.plan import Plan


def quantize(
    model: Model,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="A name that `sinkquant recipes` lists, or a YAML file; chosen where not given."
        ),
    ] = None,
    bits: Annotated[
        int | None, typer.Option(metavar="4|8", help="Without --recipe: bits of the weights, 8 where not given.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="sink-aware|portable",
            help="Without --recipe: whom the checkpoint is for, sinkquant or stock loaders; sink-aware where not given "
            "and sinks or outlier channels are found.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="The folder to write.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one key of the recipe, for example weights.bits=4."),
    ] = None,
    calibration: Calibration = None,
    task: TaskOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop; nothing is written.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT, once the new checkpoint is complete.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Quantize a model after a recipe, write the checkpoint and compare it with the model.

    Without --recipe one is chosen, and plain quantization takes its place where that measures better on held-out text.
    """
    from sinkquant.cli.console import say
    from sinkquant.cli.describe import plan_sheet, result_sheets
    from sinkquant.cli.output import print_json, show, stdout_kept_clean
    from sinkquant.cli.progress import StageBars
    from sinkquant.recipes import load_recipe
    from sinkquant.recipes.candidates import candidate, refuse_both

    refuse_both(recipe, bits, target)
    # Before torch is imported: a misspelt key need not wait for it.
    checked = load_recipe(recipe if recipe is not None else candidate(bits, target), overrides or ())
    if output is None and not dry_run:
        raise UsageError("no output folder is named: pass -o OUT, or --dry-run to see the plan only.")

    with stdout_kept_clean(json), StageBars() as bars:
        from sinkquant.api import quantize as api
        from sinkquant.flow.coverage import coverage_note

        def planned(plan: Plan, cost: Estimate) -> None:
            if not json:
                with bars.paused():
                    show(plan_sheet(plan, cost))

        result = api.quantize(
            model, recipe=None if recipe is None else checked, bits=bits, target=target, output=output,
            overrides=overrides or (), calibration=calibration, task=task, overwrite=overwrite, dry_run=dry_run,
            trust_remote_code=trust_remote_code, progress=bars.step, planned=planned,
        )  # fmt: skip
    if json:
        print_json(result)
        return
    show(*result_sheets(result))
    few = coverage_note(result.experts, result.plan.recipe.calibration)
    if few is not None:
        say(f"{few}.")
    if result.choice is not None:
        say(f"{result.choice.recipe}: {result.choice.reason}")
    if result.path is not None:
        say(f"The checkpoint is in {result.path}.")
