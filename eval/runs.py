"""Measured runs: each in a process of its own and saved at once; an interrupted benchmark goes on where it stopped."""

from __future__ import annotations

import json
import os
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ASSETS = Path(os.environ.get("SINKQUANT_ASSETS", Path.home() / ".cache" / "sinkquant-assets"))
SHARED = Path(os.environ.get("SINKQUANT_SHARED", Path(__file__).parents[2] / "shared")) / "assets"

# Naive counterparts and studies of one thing: rounding alone, so that what is fitted afterwards hides nothing.
UNTUNED = ("tuning.epochs=0", "weights.sweeps=2")

Row = dict[str, Any]
Also = Callable[[Any, "Subject"], Row]


@dataclass(frozen=True)
class Subject:
    """A model with the text it is calibrated on and the text it is scored on."""

    model: Path
    calibration: Path
    text: Path
    bos: str = "never"
    window: int = 2048
    tokens: int = 8192
    overrides: tuple[str, ...] = ()  # a smaller calibration, where the model is slow on two cores

    def missing(self) -> list[Path]:
        """What is not on this machine."""
        return [path for path in (self.model, self.calibration, self.text) if not path.exists()]


SUBJECTS = {
    "smollm2": Subject(
        ASSETS / "smollm2-135m-instruct", SHARED / "data/wikitext-2/valid.txt", SHARED / "data/wikitext-2/wiki.test.raw"
    ),
    "mixtral": Subject(
        ASSETS / "mixtral-smollm2", SHARED / "data/wikitext-2/valid.txt", SHARED / "data/wikitext-2/wiki.test.raw"
    ),
    "gemma3": Subject(
        ASSETS / "gemma3-270m", SHARED / "data/wikitext-2/valid.txt", SHARED / "data/wikitext-2/wiki.test.raw", "auto",
        window=512, tokens=1024, overrides=("calibration.sequences=4", "calibration.length=512"),
    ),
    "stories260k": Subject(
        SHARED / "models/stories260K", SHARED / "data/tinystories/tinystories_sample_2m.txt",
        SHARED / "data/tinystories/tiny_stories_944k.txt", "always", window=512,
    ),
}  # fmt: skip


def parse(parser: ArgumentParser) -> tuple[Namespace, Subject]:
    """The options, `--model` among them, and its subject; ends the program where that is not on this machine."""
    parser.add_argument("--model", choices=list(SUBJECTS), default="smollm2")
    options = parser.parse_args()
    subject = SUBJECTS[options.model]
    if subject.missing():
        parser.error(f"{subject.missing()[0]} is missing: run make assets or set SINKQUANT_ASSETS, SINKQUANT_SHARED.")
    return options, subject


@dataclass(frozen=True)
class Case:
    """One row: what it is called, and what is run."""

    labels: tuple[tuple[str, Any], ...]
    recipe: str
    overrides: tuple[str, ...]

    def identity(self, subject: Subject) -> Row:
        """What must be the same for an earlier row to be kept."""
        from sinkquant.evaluation.versions import versions
        from sinkquant.recipes import load_recipe

        facts = {name: getattr(value, "name", value) for name, value in asdict(subject).items()}
        fewer = facts.pop("overrides")  # the digest holds them too
        return {
            **dict(self.labels), "versions": versions(),
            "subject": facts | ({"fewer": " ".join(fewer)} if fewer else {}),
            "recipe_digest": load_recipe(self.recipe, (*subject.overrides, *self.overrides)).digest(),
        }  # fmt: skip


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files of a model folder, in whatever format."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.suffix in (".safetensors", ".pt", ".bin"))


def measure(recipe: str, overrides: tuple[str, ...], subject: Subject, also: Also | None = None) -> Row:
    """Quantize into a temporary folder and evaluate; meant for a fresh process, whose peak memory is its own.

    `also`: what else is told of the result of `quantize`.
    """
    import torch

    import sinkquant

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "out"
        done = sinkquant.quantize(
            subject.model,
            recipe=recipe,
            overrides=(*subject.overrides, *overrides, "proof.worst=null"),  # whatever comes out is measured
            calibration=str(subject.calibration),
            output=out,
        )
        compared = sinkquant.evaluate(
            out, baseline=subject.model, text=str(subject.text), window=subject.window, max_tokens=subject.tokens,
            bos=subject.bos,
        )  # fmt: skip
        return {
            **compared.model_dump(mode="json"), "bytes": weight_bytes(out),
            "baseline_bytes": weight_bytes(subject.model), "seconds": done.seconds, "peak_bytes": done.peak_bytes,
            "prefix": list(done.plan.prefix), "notes": list(done.plan.notes), "threads": torch.get_num_threads(),
            **(also(done, subject) if also is not None else {}),
        }  # fmt: skip


def run(
    cases: Sequence[Case], subject: Subject, name: str, table: Callable[[list[Row]], str], also: Also | None = None
) -> list[Row]:
    """Measure what is missing in results/`name`.json; the table is written again after every run."""
    file = RESULTS / f"{name}.json"
    for case in cases:
        key, title = case.identity(subject), ", ".join(str(value) for _, value in case.labels)
        if any(key.items() <= row.items() for row in read(file)):
            print(f"{title}: already measured", flush=True)
            continue
        print(f"{title} …", flush=True)
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as fresh:
            row = fresh.submit(measure, case.recipe, case.overrides, subject, also).result()
        print(f"  perplexity {row['result_perplexity']:.2f} (FP {row['baseline_perplexity']:.2f})", flush=True)
        keep(name, dict(case.labels), row | key, table)
    rows = read(file)
    write(RESULTS / f"{name}.md", table(rows))
    return rows


def keep(name: str, same: Row, row: Row, table: Callable[[list[Row]], str]) -> None:
    """Put `row` into results/`name`.json in the place of those that have all of `same`, and write the table again."""
    file = RESULTS / f"{name}.json"
    rows = read(file)
    place = next((place for place, old in enumerate(rows) if same.items() <= old.items()), len(rows))
    rows = [old for old in rows if not same.items() <= old.items()]
    rows.insert(place, row)
    write(file, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write(RESULTS / f"{name}.md", table(rows))


def read(file: Path) -> list[Row]:
    """The rows that were saved; read again before each is added, so that two benchmarks may share a file."""
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return rows


def write(path: Path, text: str) -> None:
    """Replace `path` in one step: an interruption leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def conditions(rows: list[Row]) -> list[str]:
    """How the rows were measured; equal sentences once."""
    return sorted({_condition(row) for row in rows})


def _condition(row: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return (
        f"- {row['tokens']} scored tokens of {row['text']} in {row['windows']} windows of {row['window']}; calibrated "
        f"on {row['subject']['calibration']}{_smaller(row)}; BOS: {row['bos_baseline']} (FP), {row['bos_result']} "
        f"(result); {versions}."
    )


def _smaller(row: Row) -> str:
    return f" ({row['subject']['fewer']})" if "fewer" in row["subject"] else ""
