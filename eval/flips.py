"""Flips: one changed bit of any file of a checkpoint is noticed by `load` and by `verify`.

`python -m eval.flips` quantizes a tiny model to a checkpoint of each kind and flips one bit at a time: a file is drawn,
each as often, then a bit of it. A flip counts as caught where both refuse the folder in one sentence.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sinkquant
from eval.runs import RESULTS, write
from sinkquant.evaluation.versions import versions
from tests import tiny

EACH = 200  # flips a checkpoint
RECIPES = {"sink-aware": "w4a8kv4", "portable": "w4a16"}
SMALL = ["calibration.sequences=4", "calibration.length=64", "export.shard_size=40KB"]


def make(folder: Path) -> dict[str, Path]:
    """A checkpoint of each kind, by its kind; of several shards."""
    os.environ["SINKQUANT_CACHE"] = str(folder / "cache")
    model = tiny.random_llama()
    tiny.train(model, tiny.byte_tokenizer(), steps=20)
    source, text = tiny.save(model, folder / "model"), folder / "text.txt"
    text.write_text(tiny.sentences(600), encoding="utf-8")
    for kind, recipe in RECIPES.items():
        sinkquant.quantize(source, recipe=recipe, output=folder / kind, calibration=str(text), overrides=SMALL)
    return {kind: folder / kind for kind in RECIPES}


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """`path` with one bit changed."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(content)


def refused(check: Any, folder: Path) -> bool:
    """Whether `check` refuses the folder in one sentence; another exception counts as none."""
    try:
        check(folder)
    except sinkquant.SinkquantError as error:
        return "\n" not in str(error)
    except Exception:
        return False
    return False


def try_flips(folder: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A row a file: how many flips, how many of them `load` and `verify` refuse."""
    draw = random.Random(seed)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    rows: dict[str, dict[str, Any]] = {
        name: {"file": name, "bytes": (folder / name).stat().st_size, "flips": 0, "load": 0, "verify": 0}
        for name in files
    }
    for index in range(count):
        row = rows[files[index % len(files)]]
        path = folder / row["file"]
        with flipped(path, draw.randrange(8 * row["bytes"])):
            row["flips"] += 1
            row["load"] += refused(sinkquant.load, folder)
            row["verify"] += refused(sinkquant.verify, folder)
    return list(rows.values())


def page(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["# Flips", "", f"`python -m eval.flips`: {found['each']} flipped bits a checkpoint of a tiny model.", ""]
    lines += ["| checkpoint | file | bytes | flips | refused by `load` | by `verify` |", "|---|---|---|---|---|---|"]
    total = caught = 0
    for kind, rows in found["kinds"].items():
        for row in rows:
            cells = [kind, *(str(row[key]) for key in ("file", "bytes", "flips", "load", "verify"))]
            lines.append(f"| {' | '.join(cells)} |")
            total, caught = total + row["flips"], caught + min(row["load"], row["verify"])
    used = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return "\n".join([*lines, "", f"Together {caught} of {total} are refused by both.", "", used]) + "\n"


def main() -> None:
    """Measure, and write `flips.json` and `flips.md`."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=EACH)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kinds = {kind: try_flips(folder, given.each) for kind, folder in make(Path(scratch)).items()}
    found = {"each": given.each, "kinds": kinds, "versions": versions()}
    write(RESULTS / "flips.json", json.dumps(found, indent=1) + "\n")
    write(RESULTS / "flips.md", page(found))


if __name__ == "__main__":
    main()
