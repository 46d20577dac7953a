"""`sinkquant quantize`: from a model to a smaller checkpoint that was compared with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sinkquant.cli.options import Calibration, Json, Model, TrustRemoteCode
from sinkquant.errors import UsageError

if TYPE_CHECKING:  # imports torch
    from sinkquant.api.estimate import Estimate
    from sinkquant.api.plan import Plan


def quantize(
    model: Model,
    recipe: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="A name that `sinkquant recipes` lists, or a YAML file.")
    ] = "w8a8-static",
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="The folder to write.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one key of the recipe, for example weights.bits=4."),
    ] = None,
    calibration: Calibration = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop; nothing is written.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT, once the new checkpoint is complete.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Quantize a model after a recipe, write the checkpoint and compare it with the model."""
    from sinkquant.cli.describe import plan_sheet, result_sheets
    from sinkquant.cli.output import print_json, show, stdout_kept_clean
    from sinkquant.cli.progress import StageBars
    from sinkquant.recipes import load_recipe

    chosen = load_recipe(recipe, overrides or ())  # before torch is imported: a misspelt key need not wait for it
    if output is None and not dry_run:
        raise UsageError("no output folder is named: pass -o OUT, or --dry-run to see the plan only.")

    with stdout_kept_clean(json), StageBars() as bars:
        from sinkquant.api import quantize as api

        def planned(plan: Plan, cost: Estimate) -> None:
            if not json:
                with bars.paused():
                    show(plan_sheet(plan, cost))

        result = api.quantize(
            model, recipe=chosen, output=output, calibration=calibration, overwrite=overwrite, dry_run=dry_run,
            trust_remote_code=trust_remote_code, progress=bars.step, planned=planned,
        )  # fmt: skip
    if json:
        print_json(result)
        return
    show(*result_sheets(result))
    if result.path is not None:
        typer.echo(f"The checkpoint is in {result.path}.")
