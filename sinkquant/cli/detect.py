"""`sinkquant detect`: find the sinks of a model."""

from __future__ import annotations

from typing import Annotated

import typer

from sinkquant.cli.options import Bos, BosOption, Calibration, Json, Model, TaskOption, TrustRemoteCode


def detect(
    model: Model,
    calibration: Calibration = None,
    task: TaskOption = None,
    bos: BosOption = Bos.auto,
    max_prefix: Annotated[int, typer.Option(min=1, max=16, help="Most tokens that the prefix may have.")] = 4,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Find a model's sink tokens and outlier channels, and the prefix that absorbs them."""
    from sinkquant.cli.describe_sinks import report_sheets
    from sinkquant.cli.output import print_json, show, stdout_kept_clean
    from sinkquant.cli.progress import StageBars

    with stdout_kept_clean(json), StageBars() as bars:
        from sinkquant.api import detect as api

        report = api.detect(
            model, calibration=calibration, task=task, bos=bos.value, max_prefix=max_prefix,
            trust_remote_code=trust_remote_code, progress=lambda done, total: bars.step("detect", done, total),
        )  # fmt: skip
    if json:
        print_json(report)
    else:
        show(*report_sheets(report))
