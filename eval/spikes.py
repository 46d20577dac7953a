"""Spike units in float beside everything else that is done about outliers: none, two of each input, as many as pay.

    python -m eval.spikes [--model smollm2|gemma3|stories260k] [--only SETTING …] [--arms ARM …] [--tokens N]

One command, resumable; baseline and result are scored in one run on the same tokens.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

from eval.runs import Case, Row, conditions, parse, run
from sinkquant.recipes.plain import NO_SINKS, NO_TRANSFORMS

UNROUTED, UNTUNED = ("activations.route=null",), ("tuning.epochs=0",)
SETTINGS = {"W8A8 static": "w8a8-static", "W4A8KV4": "w4a8kv4", "W4A4KV4 static": "w4a4kv4"}
ARMS: dict[str, tuple[str, ...]] = {
    "nothing": (*NO_SINKS, *NO_TRANSFORMS, *UNROUTED),
    "routing": (*NO_SINKS, *NO_TRANSFORMS),
    "prefix": (*NO_TRANSFORMS, *UNROUTED),
    "rotation": (*NO_SINKS, *UNROUTED),
    "recipe": (),
}
UNITS = ("0", "2", "auto")


def cases(settings: list[str], arms: list[str], size: tuple[str, ...]) -> list[Case]:
    """One run a setting, an arm and a number of units; what a table is read by comes first."""
    return [
        Case(
            (("setting", setting), ("arm", arm), ("units", units)),
            SETTINGS[setting], (*size, *UNTUNED, *ARMS[arm], f"activations.spikes={units}"),
        )
        for setting in settings for arm in arms for units in UNITS
    ]  # fmt: skip


def markdown(model: str, size: tuple[str, ...], rows: list[Row]) -> str:
    """One line a run, in the order of the tables above; what units bring is told against none in the same arm."""
    found = {(row["setting"], row["arm"], row["units"]): row for row in rows}
    lines = [
        f"# Spike units in float on {model}", "",
        "The channels of each input with the largest magnitudes are left out of the rounding and multiplied in float "
        "(`activations.spikes`), beside other ways to handle outliers: *nothing*: no prefix, no transformation, no "
        "routing; *routing*, *prefix*, *rotation* (everything that the recipe transforms): that alone; *recipe*: all "
        "of them. Without distillation. Gained: nats a token against no units in the same row of arms.", "",
        "| setting | handled by | units | perplexity | gained | KL | top-1 | weights on disk | rounding |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for setting in SETTINGS:
        for arm in ARMS:
            none = found.get((setting, arm, "0"))
            for units in UNITS:
                if (row := found.get((setting, arm, units))) is None:
                    continue
                gained = math.log(none["result_perplexity"] / row["result_perplexity"]) if none else math.nan
                lines.append(
                    f"| {setting} | {arm} | {units} | {row['result_perplexity']:.2f} "
                    f"| {'' if units == '0' else format(gained, '+.3f')} | {row['kl']:.4f} "
                    f"| {row['top1_agreement']:.1%} | {row['bytes'] / 1e6:.1f} MB | {row['seconds']['quantize']:.0f} s |"
                )
    lines += ["", f"Full precision: {rows[0]['baseline_perplexity']:.2f}."]
    lines += ["", "## How it was measured", "", f"- Calibrated with `{' '.join(size)}`; seed 0.", *conditions(rows)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.spikes", description="What spike units in float bring.")
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--sequences", type=int, default=8, help="calibration sequences")
    parser.add_argument("--length", type=int, default=512, help="tokens a calibration sequence")
    parser.add_argument("--tokens", type=int, default=4096, help="most tokens that are scored")
    options, subject = parse(parser)
    size = (f"calibration.sequences={options.sequences}", f"calibration.length={options.length}")
    subject = replace(subject, tokens=options.tokens)
    name = "spikes" if options.model == "smollm2" else f"spikes-{options.model}"
    run(cases(options.only, options.arms, size), subject, name, lambda rows: markdown(options.model, size, rows))


if __name__ == "__main__":
    main()
