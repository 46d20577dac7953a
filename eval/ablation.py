"""Which part does what: no handling, the prefix alone, the transformations alone, and both.

    python -m eval.ablation [--model smollm2|gemma3|stories260k] [--seeds N] [--sequences N] [--length N]

One command, resumable; writes the JSON, the Markdown table and the plot made from the JSON.
"""

from __future__ import annotations

import argparse
import math
from statistics import mean, stdev

from eval.runs import RESULTS, UNTUNED, Case, Row, conditions, parse, run
from sinkquant.recipes.plain import NO_SINKS, NO_TRANSFORMS

ARMS = {"none": (*NO_SINKS, *NO_TRANSFORMS), "prefix": NO_TRANSFORMS, "rotation": NO_SINKS, "both": ()}
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "W8A8 static": ("w8a8-static", ()),
    "W4A8KV4": ("w4a8kv4", ()),
    "W4A4KV4 static": ("w4a4kv4", ()),
    "W4A4KV4 dynamic": ("w4a4kv4", ("activations.mode=dynamic",)),
    "KV4": ("kv4", ()),
    "KV2": ("kv4", ("kv_cache.bits=2",)),
}


def cases(seeds: int, sequences: int, length: int) -> list[Case]:
    """All cells of the first seed, then of the next; seeds matter only where something is rotated at random."""
    size = (f"calibration.sequences={sequences}", f"calibration.length={length}")
    made = []
    for seed in range(seeds):
        for setting, (recipe, overrides) in SETTINGS.items():
            for arm, changes in ARMS.items():
                if seed and arm in ("none", "prefix"):
                    continue
                labels = (("setting", setting), ("arm", arm), ("seed", seed))
                made.append(Case(labels, recipe, (*overrides, *UNTUNED, *size, *changes, f"transforms.seed={seed}")))
    return made


def cells(rows: list[Row], setting: str, arm: str) -> list[Row]:
    """All seeds of one cell."""
    return [row for row in rows if (row["setting"], row["arm"]) == (setting, arm)]


def excess(rows: list[Row]) -> float:
    """Mean loss above full precision, nats a token."""
    return mean(math.log(row["result_perplexity"] / row["baseline_perplexity"]) for row in rows)


def gap_closed(rows: list[Row], setting: str, arm: str) -> float | None:
    """(loss of `none` − loss of the arm) / (loss of `none` − loss of FP), losses in nats a token."""
    plain, own = cells(rows, setting, "none"), cells(rows, setting, arm)
    if not plain or not own:
        return None
    start, end = math.log(plain[0]["result_perplexity"]), math.log(plain[0]["baseline_perplexity"])
    return (start - mean(math.log(row["result_perplexity"]) for row in own)) / (start - end)


def markdown(name: str, size: str, rows: list[Row]) -> str:
    """One line a cell; `size`: how much text they were calibrated on."""
    lines = [
        f"# Ablation on {name}", "",
        "*none*: no prefix, no sink left out of the ranges, no transformation; *prefix*: sinks handled, nothing "
        "transformed; *rotation*: rotations, smoothing, balanced keys and centered inputs as in the recipe, sinks not "
        "handled; *both*: the recipe. Outlier rows are routed in all of them, and smoothing's statistics leave the "
        "largest rows out. Gap closed: (loss of none − loss) / (loss of none − loss of full precision).", "",
        "| setting | arm | perplexity | FP | gap closed | KL | top-1 | time |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for setting in SETTINGS:
        for arm in ARMS:
            own = cells(rows, setting, arm)
            if not own:
                continue
            scores = [row["result_perplexity"] for row in own]
            spread = f" ± {stdev(scores):.2f} ({len(scores)} seeds)" if len(scores) > 1 else ""
            closed = gap_closed(rows, setting, arm)
            lines.append(
                f"| {setting} | {arm} | {mean(scores):.2f}{spread} | {own[0]['baseline_perplexity']:.2f} "
                f"| {'' if closed is None or arm == 'none' else f'{closed:.0%}'} | {mean(r['kl'] for r in own):.4f} "
                f"| {mean(r['top1_agreement'] for r in own):.1%} | {sum(own[0]['seconds'].values()):.0f} s |"
            )

    lines += ["", f"![Loss above full precision](ablation-{name}.svg)", "", *reading(rows)]
    lines += ["", "## How it was measured", "", f"- Calibrated on {size} tokens.", *conditions(rows)]
    return "\n".join(lines) + "\n"


def reading(rows: list[Row]) -> list[str]:
    """What sinks explain, what rotation explains and what is left, where all arms were measured."""
    told = []
    for setting in SETTINGS:
        closed = {arm: gap_closed(rows, setting, arm) for arm in ARMS}
        if None in closed.values():
            continue
        gap, left = (excess(cells(rows, setting, arm)) for arm in ("none", "both"))
        told.append(
            f"- {setting}: of {gap:.3f} nats that plain quantization loses, handling sinks alone gives back "
            f"{closed['prefix']:.0%}, transformations alone {closed['rotation']:.0%}, both {closed['both']:.0%}; "
            f"{left:.3f} nats are left."
        )
    return told


def plot(name: str, rows: list[Row]) -> None:
    """Loss above full precision, a group of bars a setting, on a log scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    present = [setting for setting in SETTINGS if any(row["setting"] == setting for row in rows)]
    figure, axes = pyplot.subplots(figsize=(9, 4), layout="constrained")
    for place, arm in enumerate(ARMS):
        heights: list[float] = []
        for setting in present:
            own = cells(rows, setting, arm)
            heights.append(max(excess(own) if own else math.nan, 1e-3))
        axes.bar([i + (place - 1.5) * 0.2 for i in range(len(present))], heights, 0.2, label=arm)
    axes.set_xticks(range(len(present)), present)
    axes.set(yscale="log", ylabel="loss above full precision, nats a token", title=f"{name}: what handles what")
    axes.legend()
    figure.savefig(RESULTS / f"ablation-{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Measure what is missing, write table and plot."""
    parser = argparse.ArgumentParser(prog="python -m eval.ablation", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sequences", type=int, default=16, help="calibration sequences")
    parser.add_argument("--length", type=int, default=1024, help="tokens a calibration sequence")
    options, subject = parse(parser)
    made = cases(options.seeds, options.sequences, options.length)

    def report(rows: list[Row]) -> str:
        plot(options.model, rows)
        return markdown(options.model, f"{options.sequences} × {options.length}", rows)

    run(made, subject, f"ablation-{options.model}", report)


if __name__ == "__main__":
    main()
