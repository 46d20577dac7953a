"""A family in a process that has transformers imported, its steps in children with a time limit each."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

import torch

from eval.families.build import build, text
from eval.runs import Row

Work = Callable[[Sequence[str], Callable[[Row], None]], None]
FORK = get_context("fork")
LIMIT = 120.0  # seconds a step may take


def family(name: str, steps: Sequence[str]) -> list[Row]:
    """A row a step; one row where the model cannot be built. Runs in a process that never imports sinkquant."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    try:
        (folder / "text.txt").write_text(text(), encoding="utf-8")
        built = rows_of(folder / "build", ["build"], lambda _, write: write(_build(name, folder / "model")))[0]
        if built["status"] != "ok":
            return [{"family": name, **built}]
        from eval.families import job, stock

        rows = rows_of(folder / "own", steps, lambda left, write: job.run(folder, left, write))
        made = [row["recipe"] for row in rows if row["status"] == "ok" and (folder / row["recipe"]).is_dir()]
        loaded = rows_of(folder / "stock", made, lambda left, write: stock.run(folder, left, write))
        more = {row.pop("recipe"): row for row in loaded}
        return [{"family": name, **row, **_stock(more.get(row["recipe"], {}))} for row in rows]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stock(row: Row) -> Row:
    from eval.families.stock import RIGHT

    if row.get("status") == "died":
        row = {"stock": "fails", "stock_says": row["says"]}
    if row and row["stock"] not in RIGHT:
        row["status"], row["says"] = "wrong", f"stock transformers: {row['stock']}; {row.get('stock_says', '')}"
    return row


def _build(name: str, folder: Path) -> Row:
    try:
        build(name, folder)
    except Exception as error:  # the family's own classes may raise anything
        return {"recipe": "build", "status": "not built", "says": f"{type(error).__name__}: {str(error)[:200]}"}
    return {"recipe": "build", "status": "ok"}


def rows_of(file: Path, steps: Sequence[str], work: Work) -> list[Row]:
    """What `work` writes in a child; a step that takes too long or ends the child gets a row that says so."""
    rows: list[Row] = []
    while len(rows) < len(steps):
        child = FORK.Process(target=_inside, args=(file, work, list(steps[len(rows) :])))
        child.start()
        seen, since = len(rows), time.monotonic()
        while child.is_alive() and time.monotonic() - since < LIMIT:
            child.join(0.05)
            if (count := len(_read(file))) > seen:
                seen, since = count, time.monotonic()
        late = child.is_alive()
        child.kill()
        child.join()
        rows = _read(file)
        if len(rows) < len(steps):
            says = f"took more than {LIMIT:.0f} s" if late else f"the process ended: {_tail(file)}"
            _append(file, {"recipe": steps[len(rows)], "status": "died", "says": says})
            rows = _read(file)
    return rows


def _inside(file: Path, work: Work, left: list[str]) -> None:
    os.dup2(os.open(file.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    gc.freeze()  # what was imported is not looked through again by every collection
    torch.set_num_threads(1)  # families run side by side
    os.environ["SINKQUANT_CACHE"] = str(file.parent / "cache")
    try:
        work(left, lambda row: _append(file, row))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _append(file: Path, row: Row) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def _read(file: Path) -> list[Row]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _tail(file: Path) -> str:
    log = file.with_suffix(".log")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:200] if lines else "no message"
