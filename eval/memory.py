"""Peak memory of `quantize` with little and with much calibration text: rows of activations are never kept.

    python -m eval.memory [--only RECIPE …]

What a walk over the blocks has to keep is what one block takes and gives, for all of the text. The blocks are alike, so
the first three of SmolLM2 show it; nothing is distilled, since that would hide it. Every run has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from eval.runs import RESULTS, SUBJECTS, Row, keep, read, write

RECIPES = ("w4a16", "w4a4kv4")
BLOCKS, LENGTH, SEQUENCES = 3, 1024, (8, 48)
OVERRIDES = ("tuning.epochs=0", "proof.worst=null")  # three blocks alone write no sense
QUANTIZED = "quantize"  # the stage


def first_blocks(folder: Path) -> int:
    """Put a model of SmolLM2's first blocks there; returns the width of its stream."""
    from sinkquant.models.load import load_model, load_tokenizer
    from sinkquant.models.source import resolve

    source = resolve(SUBJECTS["smollm2"].model)
    model: Any = load_model(source)
    model.model.layers = model.model.layers[:BLOCKS]
    model.config.num_hidden_layers = BLOCKS
    model.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    return int(model.config.hidden_size)


def measure(model: Path, recipe: str, sequences: int) -> Row:
    """Peaks (bytes) by the end of every stage; meant for a fresh process."""
    import torch

    import sinkquant

    size = (f"calibration.sequences={sequences}", f"calibration.length={LENGTH}")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "out"
        done = sinkquant.quantize(
            model, recipe=recipe, overrides=(*OVERRIDES, *size), output=out,
            calibration=str(SUBJECTS["smollm2"].calibration),
        )  # fmt: skip
        peaks = json.loads((out / "sinkquant.json").read_text(encoding="utf-8"))["peak_bytes"]
    return {"peaks": peaks, "seconds": done.seconds, "threads": torch.get_num_threads()}


def table(rows: list[Row]) -> str:
    """One line a recipe: the peak after rounding, with the smaller and the larger text."""
    few, many = SEQUENCES
    lines = [
        "# Memory and calibration text", "",
        f"Peak memory of `quantize` up to the end of rounding, for the first {BLOCKS} blocks of SmolLM2-135M. "
        "Needed: the inputs and the outputs of a block, in float32, for the text that is more.", "",
        f"| recipe | {few} × {LENGTH} tokens | {many} × {LENGTH} tokens | more | needed |", "|---" * 5 + "|",
    ]  # fmt: skip
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        found = {row["sequences"]: row for row in rows if row["recipe"] == recipe}
        if set(found) != set(SEQUENCES):
            continue
        small, large = (found[sequences]["peaks"][QUANTIZED] for sequences in SEQUENCES)
        needed = 2 * 4 * found[many]["width"] * LENGTH * (many - few)
        lines.append(
            f"| {recipe} | {small / 1e6:.0f} MB | {large / 1e6:.0f} MB | {(large - small) / 1e6:.0f} MB "
            f"| {needed / 1e6:.0f} MB |"
        )
    versions = ", ".join(f"{package} {version}" for package, version in rows[0]["versions"].items())
    threads = ", ".join(str(one) for one in sorted({row["threads"] for row in rows}))
    lines += [
        "", f"Text: {rows[0]['calibration']}; overrides `{' '.join(OVERRIDES)}`; threads: {threads}; {versions}. The "
        "heap of one and the same run differs by up to 100 MB from time to time.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing and write the table."""
    from sinkquant.evaluation.versions import versions
    from sinkquant.recipes import load_recipe

    parser = argparse.ArgumentParser(prog="python -m eval.memory", description="Memory and calibration text.")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=RECIPES, metavar="RECIPE")
    options = parser.parse_args()
    subject = SUBJECTS["smollm2"]
    if subject.missing():
        parser.error(f"{subject.missing()[0]} is missing: run make assets or set SINKQUANT_ASSETS, SINKQUANT_SHARED.")
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "model"
        width = first_blocks(model)
        for recipe in options.only:
            for sequences in SEQUENCES:
                labels = {"recipe": recipe, "sequences": sequences}
                key = {
                    **labels, "width": width, "versions": versions(), "calibration": subject.calibration.name,
                    "recipe_digest": load_recipe(recipe, OVERRIDES).digest(),
                }  # fmt: skip
                if any(key.items() <= row.items() for row in read(RESULTS / "memory.json")):
                    continue
                with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as fresh:
                    row = key | fresh.submit(measure, model, recipe, sequences).result()
                print(labels, f"{row['peaks'][QUANTIZED] / 1e6:.0f} MB", flush=True)
                keep("memory", labels, row, table)
    write(RESULTS / "memory.md", table(read(RESULTS / "memory.json")))


if __name__ == "__main__":
    main()
