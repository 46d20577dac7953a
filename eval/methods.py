"""What each method brings: a recipe at its hardest setting, with one thing changed at a time.

    python -m eval.methods [--model smollm2|gemma3|stories260k] [--only CHANGE …]

On half the sequences of half the length, so that one change takes minutes; resumable.
"""

from __future__ import annotations

import argparse
import math

from eval.runs import UNTUNED, Case, Row, conditions, parse, run

RECIPE = "w4a4kv4"
SIZE = ("calibration.sequences=8", "calibration.length=512")
WHOLE = "nothing"
CHANGES: dict[str, tuple[str, ...]] = {
    WHOLE: (),
    "weights rounded to nearest": ("weights.method=rtn", "weights.sweeps=0"),
    "no coordinate descent after GPTQ": ("weights.sweeps=0",),
    "GPTQ in the order of the columns": ("weights.act_order=false",),
    "GPTQ's damping 0.01 in place of 0.1": ("weights.damping=0.01",),
    "5 bits a weight, spent by sensitivity": ("weights.budget=5",),
    "one epoch of distillation": ("tuning.epochs=1",),
    "means of the inputs left in": ("activations.center=false",),
    "inputs with zero points": ("activations.symmetric=false",),
    "input ranges not clipped": ("activations.clip=none",),
    "outlier rows not routed": ("activations.route=null",),
    "R1 in place of smoothing and online rotations": (
        "transforms.r1=true", "transforms.smooth=false", "transforms.inputs=false",
    ),
    "R3 in place of balanced keys": ("kv_cache.balance=false",),
    "no prefix, sinks still left out of the ranges": ("sinks.prefix=none",),
    "BOS as the prefix": ("sinks.prefix=[1]",),
    "a longer prefix: the residual sink “ the” behind the found one": ("sinks.prefix=[216,3297]",),
}  # fmt: skip


def cases(names: list[str]) -> list[Case]:
    """One run a change."""
    return [Case((("change", name),), RECIPE, (*SIZE, *UNTUNED, *CHANGES[name])) for name in names]


def markdown(model: str, rows: list[Row]) -> str:
    """One line a change, in the order above; the loss is told against that of the whole recipe."""
    found = {row["change"]: row for row in rows}
    whole = found.get(WHOLE)
    lines = [
        f"# What each method brings on {model}", "",
        f"`{RECIPE}` with `{' '.join(UNTUNED)}` and one thing changed at a time. More: nats a token that the change "
        "costs (the difference of the logarithms of the perplexities); below zero it helps.", "",
        "| changed | perplexity | more | KL | top-1 | prefix | time |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name in CHANGES:
        if (row := found.get(name)) is None:
            continue
        more = math.log(row["result_perplexity"] / whole["result_perplexity"]) if whole else math.nan
        lines.append(
            f"| {name} | {row['result_perplexity']:.2f} | {'' if row is whole else format(more, '+.3f')} "
            f"| {row['kl']:.4f} | {row['top1_agreement']:.1%} | {row['prefix']} "
            f"| {sum(row['seconds'].values()):.0f} s ({row['threads']}) |"
        )
    size = " ".join(SIZE)
    lines += ["", f"Full precision: {rows[0]['baseline_perplexity']:.2f}. Time: `quantize`, with threads in brackets."]
    lines += ["", "## How it was measured", "", f"- Calibrated with {size}; seed 0.", *conditions(rows)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.methods", description="What each method brings.")
    parser.add_argument("--only", nargs="+", choices=list(CHANGES), default=list(CHANGES), metavar="CHANGE")
    options, subject = parse(parser)
    run(cases(options.only), subject, f"methods-{options.model}", lambda rows: markdown(options.model, rows))


if __name__ == "__main__":
    main()
