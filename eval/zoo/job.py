"""What sinkquant does to one built model: detect, then one recipe after the other, each to the verified checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.families.job import DETECT, judged, relative_rows
from eval.runs import Row

RECIPES = ("w8a8-npu", "w8a8-static", "w8a8", "w4a16")
SMALL = ("calibration.sequences=2", "calibration.length=64", "tuning.length=64", "export.dtype=float32")
VERIFIED = "w8a8-npu"  # in a process of its own; the others' probes are compared in this one
SAMPLES = 16
WRONG = {"w4a16": 0.9}  # of the answers' spread: what says no more of the model than the mean of its answers does
USUAL = 0.5
ALIKE = 1e-3  # of the answers' size: a spread that rounding alone makes


def run(task: str, folder: Path, data: Path, steps: Sequence[str], write: Callable[[Row], None]) -> None:
    """Hand a row a step to `write`; folder/model holds the model, checkpoints go beside it."""
    source = folder / "model"
    for step in steps:
        stages = ["load"]
        with judged(step, stages) as row:
            if step == DETECT:
                _detect(row, task, source, data)
            else:
                _quantize(row, task, source, folder / step, data, stages)
        row.setdefault("stage", stages[-1])
        write(row)


def _detect(row: Row, task: str, source: Path, data: Path) -> None:
    import sinkquant

    report = sinkquant.detect(source, task=task, calibration=str(data))
    row["verdict"] = [str(v) for v in report.verdict]


def _quantize(row: Row, task: str, source: Path, out: Path, data: Path, stages: list[str]) -> None:
    import sinkquant
    from sinkquant.evaluation.probe import compare_probes
    from sinkquant.formats.manifest import read_manifest
    from sinkquant.tasks.probe import take_probe
    from sinkquant.tasks.tasks import TASKS

    done = sinkquant.quantize(
        source, task=task, recipe=out.name, output=out, overrides=SMALL, calibration=str(data),
        progress=lambda stage, *_: stages.append(stage),
    )  # fmt: skip
    row |= {"notes": list(done.plan.notes), "linears": len(done.plan.linears)}
    stages.append("after: load")
    model = sinkquant.load(out)
    stored = read_manifest(out).probe
    assert stored is not None
    found = take_probe(TASKS[task], model, stored.ids)
    if not compare_probes(stored.model_dump(), found).identical:
        row |= {"status": "wrong", "says": "the loaded checkpoint gives other bits than its proof"}
    expected, got = _answers(task, source, data, model)
    if not (expected - expected.mean(0)).norm() > ALIKE * expected.norm():
        row |= {"status": "wrong", "says": "the tiny model gives every sample the same answer: nothing was measured"}
        return
    row["error"] = relative_rows(got, expected)
    if not row["error"] <= WRONG.get(out.name, USUAL):
        row |= {"status": "wrong", "says": "the checkpoint's answers are far from the model's"}
    stages.append("after: evaluate")
    sinkquant.evaluate(out, baseline=source, data=str(data), samples=SAMPLES, window=64)
    stages.append("after: inspect")
    sinkquant.inspect(out)
    stages.append("after: verify")
    if out.name == VERIFIED:
        sinkquant.verify(out)


def _answers(task: str, source: Path, data: Path, model: Any) -> tuple[Tensor, Tensor]:
    """Of the model as transformers loads it and of `model`, on the same samples."""
    from sinkquant.models.load import load_model
    from sinkquant.models.source import resolve
    from sinkquant.models.trace import trace_roles
    from sinkquant.tasks.task import Ask
    from sinkquant.tasks.tasks import TASKS

    purpose, place = TASKS[task], resolve(source)
    plain = load_model(place, auto=purpose.auto, dtype=torch.float32)
    ask = Ask(str(data), SAMPLES, 0, 64, seed=1, proves=False, each=True)
    read = purpose.read(ask, purpose.processor(place), plain, trace_roles(plain, purpose.probe(plain)))
    batch = purpose.begun(read.calibration, read.begin).part(0, SAMPLES)[0]
    return purpose.answer(plain, batch), purpose.answer(model, batch)
