"""Super experts at more bits than others: the experts whose down projections write the spike of the first token.

    python -m eval.super_experts [--only SETTING …] [--sequences N] [--length N] [--tokens N]

The model is that of `eval.experts`. Quantized in memory, one case after the other, and scored beside the model on the
same tokens; the same number of experts of the next block, at the same bits, shows what is not due to the spike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch

from eval.bench import Bench, load, quantized
from eval.experts import SUBJECT
from eval.runs import RESULTS, Row, keep, read, write
from sinkquant.recipes.plain import NO_TRANSFORMS

NAME = "super-experts"
NEAREST = ("weights.method=rtn", "tuning.epochs=0", "weights.head_bits=16", "weights.embedding_bits=16")
SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "W4": ("w4a16", ("target=sink-aware", "weights.group_size=64", "weights.clip=none", *NO_TRANSFORMS)),
    "W4A4KV4": ("w4a4kv4", ()),
}
PREFIX = (260,)  # what detection finds
ARMS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "no prefix": (("sinks.prefix=none",), ()),
    "prefix": (("sinks.prefix=auto",), PREFIX),
}
KEPT = {"as all others": None, "super experts at 8": 8, "super experts at 16": 16, "others at 16": 16}


def find(bench: Bench) -> tuple[Any, ...]:
    """Those that write the spike of the first token, on some calibration text."""
    from sinkquant.models.trace import trace_roles
    from sinkquant.sinks.observe import observe
    from sinkquant.sinks.super_experts import super_experts

    seen = observe(bench.model, trace_roles(bench.model), bench.ids[:, :64])
    first = torch.zeros_like(seen.ids, dtype=torch.bool)
    first[:, 0] = True
    return super_experts(bench.model, seen, first)


def others(found: Sequence[Any]) -> tuple[Any, ...]:
    """As many experts, of the block behind."""
    changed = []
    for one in found:
        module = one.module.replace(f".{one.layer}.", f".{one.layer + 1}.")
        changed.append(one.model_copy(update={"layer": one.layer + 1, "module": module}))
    return tuple(changed)


def measure(bench: Bench, recipe: str, overrides: tuple[str, ...], arm: str, found: Sequence[Any]) -> Row:
    """Quantize a copy of the model and compare it with the model."""
    from sinkquant.flow.super_experts import keep_super_experts
    from sinkquant.recipes import load_recipe

    start = time.perf_counter()
    _, compared = quantized(
        bench, load_recipe(recipe, overrides), ARMS[arm][1],
        lambda plan, shapes: keep_super_experts(plan, found, shapes),
    )  # fmt: skip
    return {**compared.model_dump(mode="json"), "seconds": time.perf_counter() - start}


def markdown(rows: list[Row]) -> str:
    """One line a case, in the order of the tables above."""
    lines = [
        "# Super experts at more bits", "",
        "`weights.super_experts` on SmolLM2 as a mixture of experts (see [experts.md](experts.md)), weights rounded to "
        "nearest: what it brings to keep the experts that write the first token's spike at 8 or 16 bits, with and "
        "without a prefix, which holds that token as it is in float. Others: the same numbers of experts in the next "
        "block, at 16 bits.", "",
        "| setting | sinks | kept | perplexity | KL | top-1 |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for setting in SETTINGS:
        for arm in ARMS:
            for kept in KEPT:
                key = {"setting": setting, "arm": arm, "kept": kept}
                lines += [
                    f"| {setting} | {arm} | {kept} | {row['result_perplexity']:.2f} | {row['kl']:.4f} "
                    f"| {row['top1_agreement']:.1%} |" for row in rows if key.items() <= row.items()
                ]  # fmt: skip
    row = rows[0]
    told = "; ".join(f"block {one['layer']}, expert {one['expert']} ({one['share']:.0%} of the spike, chosen by "
                     f"{one['frequency']:.0%} of the first tokens)" for one in row["found"])  # fmt: skip
    versions = ", ".join(f"{package} {version}" for package, version in row["versions"].items())
    lines += [
        "", f"Full precision: {row['baseline_perplexity']:.2f}. Super experts: {told}; all write channel "
        f"{row['found'][0]['row']} from hidden unit {row['found'][0]['column']}.", "", "## How it was measured", "",
        f"- {row['tokens']} scored tokens of {row['text']} in {row['windows']} windows of {row['window']}; calibrated "
        f"on {row['calibration']}; no BOS on either side; the prefix is token {PREFIX[0]}; float32; {versions}.",
        f"- Overrides in every row: `{' '.join(NEAREST)}`; " + "; ".join(
            f"{name}: `{' '.join([recipe, *own])}`" for name, (recipe, own) in SETTINGS.items()
            if any(row["setting"] == name for row in rows)
        ) + ".",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing and write the table."""
    from sinkquant.evaluation.versions import versions
    from sinkquant.recipes import load_recipe

    parser = argparse.ArgumentParser(prog="python -m eval.super_experts", description="Super experts at more bits.")
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--sequences", type=int, default=8, help="calibration sequences")
    parser.add_argument("--length", type=int, default=512, help="tokens a calibration sequence")
    parser.add_argument("--tokens", type=int, default=1024, help="most tokens that are scored")
    options = parser.parse_args()
    if SUBJECT.missing():
        parser.error(f"{SUBJECT.missing()[0]} is missing: set SINKQUANT_ASSETS, SINKQUANT_SHARED.")
    bench = load(SUBJECT.model.name, SUBJECT, (options.sequences, options.length), options.tokens)
    found = find(bench)
    conditions = {
        "versions": versions(), "text": SUBJECT.text.name, "tokens": bench.windows[:, 1:].numel(),
        "calibration": f"{options.sequences} × {options.length} tokens of {SUBJECT.calibration.name}",
        "found": [one.model_dump(mode="json") for one in found],
    }  # fmt: skip
    for setting in options.only:
        for arm, (sinks, _) in ARMS.items():
            for kept, bits in KEPT.items():
                recipe, own = SETTINGS[setting]
                overrides = (*own, *NEAREST, *sinks, *(() if bits is None else (f"weights.super_experts={bits}",)))
                labels = {"setting": setting, "arm": arm, "kept": kept}
                key = {**labels, **conditions, "recipe_digest": load_recipe(recipe, overrides).digest()}
                if any(key.items() <= row.items() for row in read(RESULTS / f"{NAME}.json")):
                    continue
                row = measure(bench, recipe, overrides, arm, others(found) if kept.startswith("others") else found)
                print(labels, f"perplexity {row['result_perplexity']:.2f}, KL {row['kl']:.4f}", flush=True)
                keep(NAME, labels, row | key, markdown)
    write(RESULTS / f"{NAME}.md", markdown(read(RESULTS / f"{NAME}.json")))


if __name__ == "__main__":
    main()
