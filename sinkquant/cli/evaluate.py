"""`sinkquant evaluate`: a checkpoint against the model it was made from."""

from __future__ import annotations

from typing import Annotated

import typer

from sinkquant.cli.options import Bos, BosOption, Json, TrustRemoteCode


def evaluate(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The folder that `sinkquant quantize` wrote.")],
    baseline: Annotated[
        str, typer.Option(metavar="MODEL", help="The model it was made from, as `sinkquant quantize` takes it.")
    ],
    text: Annotated[
        str | None, typer.Option(metavar="FILE", help="Text to score (default: documentation of this Python).")
    ] = None,
    window: Annotated[int, typer.Option(min=2, help="Tokens that a model sees at once.")] = 2048,
    max_tokens: Annotated[int, typer.Option(min=2, help="Most tokens of the text to use.")] = 8192,
    bos: BosOption = Bos.auto,
    trust_remote_code: TrustRemoteCode = False,
    json: Json = False,
) -> None:
    """Perplexity of a checkpoint and its baseline, mean KL and top-1 agreement."""
    from sinkquant.cli.output import print_json, show, stdout_kept_clean
    from sinkquant.cli.progress import StageBars
    from sinkquant.report.table import comparison_table, key_values

    with stdout_kept_clean(json), StageBars() as bars:
        from sinkquant.api import evaluate as api

        comparison = api.evaluate(
            out, baseline=baseline, text=text, window=window, max_tokens=max_tokens, bos=bos.value,
            trust_remote_code=trust_remote_code, progress=lambda done, total: bars.step("evaluate", done, total),
        )  # fmt: skip
    if json:
        print_json(comparison)
    else:
        show(comparison_table(comparison), key_values("Versions", comparison.versions))
