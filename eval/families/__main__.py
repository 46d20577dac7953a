"""Measure what is missing and write the table; see the package's docstring."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

import compressed_tensors  # noqa: F401  # the children find it imported
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from eval.families.job import DETECT, RECIPES
from eval.families.table import markdown
from eval.families.workers import FORK, family
from eval.runs import RESULTS, Row, read, write

ROOT = Path(__file__).parents[2]
STEPS = (DETECT, *RECIPES)


def code(measures: str = "eval/families") -> str:
    """A digest of everything of the project that a result depends on; `measures`: the folder that measures."""
    total = hashlib.sha256()
    for folder, pattern in (("sinkquant", "*.py"), ("recipes", "*.yaml"), (measures, "*.py")):
        for file in sorted((ROOT / folder).rglob(pattern)):
            total.update(file.read_bytes())
    return total.hexdigest()[:16]


def keep(new: Sequence[Row], steps: Sequence[str]) -> None:
    """Put the rows of one family in the place of older ones, and write the table again."""
    same = {(row["family"], row["recipe"]) for row in new}
    names = {row["family"] for row in new}
    old = [
        row for row in read(RESULTS / "families.json")
        if (row["family"], row["recipe"]) not in same and not (row["family"] in names and row["recipe"] == "build")
    ]  # fmt: skip
    rows = sorted(
        [*old, *new], key=lambda row: (row["family"], STEPS.index(row["recipe"]) if row["recipe"] in STEPS else -1)
    )
    write(RESULTS / "families.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write(RESULTS / "families.md", markdown(rows, STEPS))


def main() -> None:
    """Families that have no row of this state of the code are measured."""
    parser = argparse.ArgumentParser(prog="python -m eval.families", description="All families, all recipes.")
    every = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="model types (default: all)")
    parser.add_argument("--recipes", nargs="+", choices=STEPS, default=STEPS, metavar="RECIPE")
    parser.add_argument("--jobs", type=int, default=2, help="families at a time")
    parser.add_argument("--fresh", action="store_true", help="measure again what this code has measured")
    options = parser.parse_args()
    stamp = {
        "code": code(),
        "versions": {name: version(name) for name in ("transformers", "torch", "compressed-tensors")},
    }
    known = {(r["family"], r["recipe"]) for r in read(RESULTS / "families.json") if stamp.items() <= r.items()}
    wanted = {}
    for name in options.families or every:
        if name not in every:
            parser.error(f"{name} is no causal model type of this transformers.")
        steps = [s for s in options.recipes if options.fresh or not {(name, s), (name, "build")} & known]
        if steps:
            wanted[name] = steps
    start = time.monotonic()
    with ProcessPoolExecutor(options.jobs, mp_context=FORK) as pool:
        running = {pool.submit(family, name, steps): name for name, steps in wanted.items()}
        for done, future in enumerate(as_completed(running), 1):
            rows = [{**row, **stamp} for row in future.result()]
            keep(rows, options.recipes)
            said = ", ".join(f"{row['recipe']} {row['status']}" for row in rows)
            print(f"{done}/{len(wanted)} {running[future]}: {said}", flush=True)
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
