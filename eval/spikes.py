"""Spike units in float beside everything else that is done about outliers: none, two of each input, as many as pay.

    python -m eval.spikes [--model smollm2|gemma3|stories260k] [--only SETTING …] [--arms ARM …]

Quantized in memory, one case after the other, and scored beside the model on the same tokens. Resumable.
"""

from __future__ import annotations

import argparse
import math
import time

from eval.bench import Bench, load, quantized
from eval.runs import RESULTS, Row, keep, parse, read, write
from sinkquant.recipes.plain import NO_SINKS, NO_TRANSFORMS

UNROUTED = ("activations.route=null",)
# Nothing but the inputs and the way from model to codes: what is fitted, and the cache, would only hide it.
COMMON = ("tuning.epochs=0", "weights.method=rtn", "weights.head_bits=16", "weights.embedding_bits=16")
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "W8A8": ("w8a8-static", ()),
    "W8A6": ("w8a8-static", ("activations.bits=6",)),
    "W8A4": ("w4a4kv4", ("weights.bits=8", "kv_cache.bits=16", "kv_cache.balance=false")),
}
ARMS: dict[str, tuple[str, ...]] = {
    "nothing": (*NO_SINKS, *NO_TRANSFORMS, *UNROUTED),
    "prefix": (*NO_TRANSFORMS, *UNROUTED),
    "rotation": (*NO_SINKS, *UNROUTED),
    "recipe": (),
}
UNITS = ("0", "2", "auto")
PREFIX = {"smollm2": (216,), "gemma3": (2,), "stories260k": ()}  # what detection finds
BOS = {"gemma3": "BOS in front of every text, or as the prefix"}


def measure(bench: Bench, recipe: str, overrides: tuple[str, ...]) -> Row:
    """Quantize a copy of the model and compare it with the model."""
    from sinkquant.recipes import load_recipe
    from sinkquant.runtime.linear import QuantizedLinear

    chosen, start = load_recipe(recipe, overrides), time.perf_counter()
    prefix = PREFIX[bench.name] if chosen.sinks.prefix == "auto" else ()
    network, found = quantized(bench, chosen, prefix)
    linears = [module for module in network.modules() if isinstance(module, QuantizedLinear)]
    return {
        **found.model_dump(mode="json"), "prefix": list(prefix), "seconds": time.perf_counter() - start,
        "spikes": sum(linear.scheme.spikes for linear in linears) / len(linears),
    }  # fmt: skip


def markdown(name: str, rows: list[Row]) -> str:
    """One line a case, in the order of the tables above; what units bring is told against none in the same arm."""
    found = {(row["setting"], row["arm"], row["units"]): row for row in rows}
    lines = [
        f"# Spike units in float on {name}", "",
        "The channels of each input with the largest magnitudes are left out of the rounding and multiplied in float "
        "(`activations.spikes`), beside other ways to handle outliers: *nothing*: no prefix, no transformation, no "
        "routing; *prefix*, *rotation* (all that the recipe transforms): that alone; *recipe*: all of them and "
        "routing. Inputs are static, weights rounded to nearest, the cache, the head and the embedding in float, "
        "nothing is distilled. Gained: nats a token against no units in the same arm.", "",
        "| inputs | handled by | units | found, a linear | perplexity | gained | KL | top-1 | rows routed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for setting in SETTINGS:
        for arm in ARMS:
            none = found.get((setting, arm, "0"))
            for units in UNITS:
                if (row := found.get((setting, arm, units))) is None:
                    continue
                gained = math.log(none["result_perplexity"] / row["result_perplexity"]) if none else math.nan
                routed = row["routed_rows"]
                lines.append(
                    f"| {setting} | {arm} | {units} | {row['spikes']:.2f} | {row['result_perplexity']:.2f} "
                    f"| {'' if units == '0' else format(gained, '+.3f')} | {row['kl']:.4f} "
                    f"| {row['top1_agreement']:.1%} | {'–' if routed is None else format(routed, '.3%')} |"
                )
    row = rows[0]
    versions = ", ".join(f"{package} {version}" for package, version in row["versions"].items())
    lines += [
        "", f"Full precision: {row['baseline_perplexity']:.2f}.", "", "## How it was measured", "",
        f"- {row['tokens']} scored tokens of {row['text']} in {row['windows']} windows of {row['window']}; calibrated "
        f"on {row['calibration']}; {BOS.get(name, 'no BOS on either side')}; where there is a prefix, it is "
        f"{PREFIX[name]}; seed 0; float32; {versions}.",
        f"- Overrides in every row: `{' '.join(COMMON)}`.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing and write the table."""
    from sinkquant.evaluation.versions import versions
    from sinkquant.recipes import load_recipe

    parser = argparse.ArgumentParser(prog="python -m eval.spikes", description="What spike units in float bring.")
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM")
    parser.add_argument("--sequences", type=int, default=2, help="calibration sequences")
    parser.add_argument("--length", type=int, default=512, help="tokens a calibration sequence")
    parser.add_argument("--tokens", type=int, default=1024, help="most tokens that are scored")
    options, subject = parse(parser)
    if options.model not in PREFIX:
        parser.error(f"choose one of {', '.join(PREFIX)}.")
    bench = load(options.model, subject, (options.sequences, options.length), options.tokens)
    name = "spikes" if options.model == "smollm2" else f"spikes-{options.model}"
    conditions = {
        "versions": versions(), "text": subject.text.name, "tokens": bench.windows[:, 1:].numel(),
        "calibration": f"{options.sequences} × {options.length} tokens of {subject.calibration.name}",
    }  # fmt: skip
    for units in UNITS:  # the same number of units in every arm first, so that an interrupted run compares them
        for setting in options.only:
            for arm in options.arms:
                recipe, own = SETTINGS[setting]
                overrides = (*COMMON, *own, *ARMS[arm], f"activations.spikes={units}")
                labels = {"setting": setting, "arm": arm, "units": units}
                key = {**labels, **conditions, "recipe_digest": load_recipe(recipe, overrides).digest()}
                if any(key.items() <= row.items() for row in read(RESULTS / f"{name}.json")):
                    continue
                row = measure(bench, recipe, overrides) | key
                print(labels, f"perplexity {row['result_perplexity']:.2f}, KL {row['kl']:.4f}", flush=True)
                keep(name, labels, row, lambda rows: markdown(options.model, rows))
    rows = read(RESULTS / f"{name}.json")
    write(RESULTS / f"{name}.md", markdown(options.model, rows))


if __name__ == "__main__":
    main()
