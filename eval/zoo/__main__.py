"""Measure what is missing and write the table; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

import compressed_tensors  # noqa: F401  # the children find it imported

from eval.families.__main__ import code
from eval.families.job import DETECT
from eval.families.workers import FORK, rows_of
from eval.runs import RESULTS, Row, read, write
from eval.zoo import job
from eval.zoo.build import build, data
from eval.zoo.configs import MAPPINGS, families
from eval.zoo.table import markdown

STEPS = (DETECT, *job.RECIPES)


def measure(task: str, name: str) -> list[Row]:
    """A row a step; one row where the model cannot be built."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))

    def built(_: object, tell: object) -> None:
        try:
            build(task, name, folder / "model")
        except Exception as error:  # the family's own classes may raise anything
            says = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            tell({"recipe": "build", "status": "not built", "says": says})  # type: ignore[operator]
        else:
            tell({"recipe": "build", "status": "ok"})  # type: ignore[operator]

    try:
        first = rows_of(folder / "build", ["build"], built)[0]
        if first["status"] != "ok":
            return [{"task": task, "family": name, **first}]
        fed = data(task, folder)
        rows = rows_of(folder / "own", STEPS, lambda left, tell: job.run(task, folder, fed, left, tell))
        return [{"task": task, "family": name, **row} for row in rows]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def keep(new: list[Row]) -> None:
    """Put the rows of one family in the place of older ones, and write the table again."""
    same = {(row["task"], row["family"]) for row in new}
    rows = [row for row in read(RESULTS / "zoo.json") if (row["task"], row["family"]) not in same] + new
    order = [*MAPPINGS]
    rows.sort(key=lambda row: (order.index(row["task"]), row["family"]))
    write(RESULTS / "zoo.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write(RESULTS / "zoo.md", markdown(rows, STEPS))


def main() -> None:
    """Families that have no rows of this state of the code are measured."""
    from sinkquant.tasks.tasks import TASKS

    parser = argparse.ArgumentParser(prog="python -m eval.zoo", description="All families of the other tasks.")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(MAPPINGS))
    parser.add_argument("--families", nargs="+", metavar="FAMILY", help="model types (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="families at a time")
    parser.add_argument("--fresh", action="store_true", help="measure again what this code has measured")
    options = parser.parse_args()
    stamp = {
        "code": code("eval/zoo"),
        "versions": {name: version(name) for name in ("transformers", "torch", "compressed-tensors")},
    }
    known = {(r["task"], r["family"]) for r in read(RESULTS / "zoo.json") if stamp.items() <= r.items()}
    wanted = [
        (task, name)
        for task in options.tasks or [task for task in MAPPINGS if task in TASKS]
        for name in families(task)
        if (not options.families or name in options.families) and (options.fresh or (task, name) not in known)
    ]
    start = time.monotonic()
    with ProcessPoolExecutor(options.jobs, mp_context=FORK) as pool:
        running = {pool.submit(measure, *one): one for one in wanted}
        for done, future in enumerate(as_completed(running), 1):
            rows = [{**row, **stamp} for row in future.result()]
            keep(rows)
            said = ", ".join(
                f"{row['recipe']} {row['status']} {row.get('error', row.get('says', ''))!s:.90}" for row in rows
            )
            print(f"{done}/{len(wanted)} {' '.join(running[future])}: {said}", flush=True)
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
