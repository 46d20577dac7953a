"""One subject quantized by one setting, and compared with its float model."""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from eval.runs import Row, keep, read, weight_bytes
from eval.tasks.subject import Setting, Subject
from eval.tasks.table import FILE, table


def identity(subject: Subject, setting: Setting) -> Row:
    """What must be the same for an earlier row to be kept."""
    from sinkquant.evaluation.versions import versions
    from sinkquant.recipes import load_recipe

    return {
        "subject": subject.name, "setting": setting.name, "task": subject.task, "versions": versions(),
        "calibration": Path(subject.calibration).name, "data": Path(subject.data).name, "samples": subject.samples,
        "recipe_digest": load_recipe(setting.recipe, (*subject.overrides, *setting.overrides)).digest(),
    }  # fmt: skip


def measure(subject: Subject, setting: Setting) -> Row:
    """Meant for a fresh process, whose peak memory is its own."""
    import torch

    import sinkquant

    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "out"
        done = sinkquant.quantize(
            subject.model, recipe=setting.recipe, output=out, calibration=subject.calibration, task=subject.task,
            overrides=(*subject.overrides, *setting.overrides, "proof.worst=null"),  # whatever comes out is measured
        )  # fmt: skip
        found = sinkquant.evaluate(
            out, baseline=subject.model, data=subject.data, samples=subject.samples, write=subject.write
        )
        folder = f"{Path(subject.calibration).parent}/"  # of this machine
        more = subject.more(out, subject.model) if subject.more is not None else {}
        return {
            "figures": _figures(found) | {name: list(pair) for name, pair in more.items()},
            "places": found.tokens, "bytes": weight_bytes(out), "baseline_bytes": weight_bytes(subject.model),
            "seconds": done.seconds, "peak_bytes": done.peak_bytes,
            "notes": [note.replace(folder, "") for note in done.plan.notes],
            "prefix": list(done.plan.prefix), "threads": torch.get_num_threads(), "about": subject.about,
            "goals": {name: list(goal) for name, goal in subject.goals.items()} if setting.goal else {},
        }  # fmt: skip


def _figures(found: Any) -> dict[str, list[float | None]]:
    """Baseline and result by metric."""
    known = {
        "perplexity": [found.baseline_perplexity, found.result_perplexity],
        "kl": [None, found.kl],
        "agreement": [None, found.top1_agreement],
    }
    return {name: pair for name, pair in known.items() if pair[1] is not None} | {
        name: list(pair) for name, pair in found.figures.items()
    }


def run(subject: Subject, only: list[str] | None) -> None:
    """Measure what is missing; the table is written again after every row."""
    for setting in subject.settings:
        if only and setting.name not in only:
            continue
        key = identity(subject, setting)
        if any(key.items() <= row.items() for row in read(FILE)):
            print(f"{subject.name}, {setting.name}: already measured", flush=True)
            continue
        print(f"{subject.name}, {setting.name} …", flush=True)
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as fresh:
            row = fresh.submit(measure, subject, setting).result()
        print("  " + ", ".join(f"{name} {pair[1]:.4g}" for name, pair in row["figures"].items()), flush=True)
        keep("tasks", {name: key[name] for name in ("subject", "setting")}, key | row, table)
