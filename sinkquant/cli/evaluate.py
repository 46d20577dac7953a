"""`sinkquant evaluate`: a checkpoint against the model it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sinkquant.cli.options import Bos, BosOption, Checkpoint, Html, Json, TrustRemoteCode
from sinkquant.errors import UsageError


def evaluate(
    out: Checkpoint,
    baseline: Annotated[
        str, typer.Option(metavar="MODEL", help="The model it was made from, as `sinkquant quantize` takes it.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "--text",
            metavar="SOURCE",
            help="What to score: text, a folder of images or sounds (default for text: documentation of this Python).",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples to use where they are no windows of text [default: 256].")
    ] = None,
    window: Annotated[int, typer.Option(min=2, help="Tokens that a model sees at once.")] = 2048,
    max_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of the text to use.")] = 8192,
    tasks: Annotated[
        str | None, typer.Option(metavar="A,B", help="Run tasks of lm-evaluation-harness instead of scoring a text.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task to use.")] = None,
    task_data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder with task files (YAML) of your own, and their data.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Compare also what both models write for every sample; slow.")
    ] = False,
    html: Html = None,
    bos: BosOption = Bos.auto,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """A checkpoint against its baseline, by the metrics of what the model is for; or both on tasks."""
    from sinkquant.cli.output import print_json, show, stdout_kept_clean
    from sinkquant.cli.progress import StageBars
    from sinkquant.report.table import comparison_table, key_values

    if tasks is None and (limit is not None or task_data is not None):
        raise UsageError("--limit and --task-data belong to tasks: name some with --tasks, or use --max-tokens.")
    if tasks is not None and (data, samples) != (None, None):
        raise UsageError("--tasks and --data (or --text) exclude each other: run the command once for each.")
    if html is not None:
        from sinkquant.report.page import check_place

        check_place(html, Path(out))  # before an evaluation that may take long
    found: Any
    with stdout_kept_clean(json), StageBars() as bars:
        if tasks is None:
            from sinkquant.api.evaluate import evaluate as scored

            found = scored(
                out, baseline=baseline, data=data, samples=samples, window=window, max_tokens=max_tokens,
                bos=bos.value, write=write, trust_remote_code=trust_remote_code,
                progress=lambda done, total: bars.step("evaluate", done, total),
            )  # fmt: skip
            sheet = comparison_table(found)
        else:
            from sinkquant.api.evaluate_tasks import evaluate_tasks
            from sinkquant.cli.describe_tasks import task_sheet

            found = evaluate_tasks(
                out, baseline=baseline, tasks=[name.strip() for name in tasks.split(",")], limit=limit,
                task_data=task_data, window=window, bos=bos.value, trust_remote_code=trust_remote_code,
                progress=lambda done, total: bars.step("tasks", done, total),
            )  # fmt: skip
            sheet = task_sheet(found)
    sheets = (sheet, key_values("Versions", found.versions))
    if html is not None:
        from sinkquant.report.page import write_page

        write_page(html, Path(out), sheets)
    if json:
        print_json(found)
    else:
        show(*sheets)
