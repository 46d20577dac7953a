"""Which recipe, where none is named: wishes and detection propose one, held-out text decides against plain rounding."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from sinkquant.errors import UsageError
from sinkquant.evaluation.metric import METRICS
from sinkquant.evaluation.nonsense import Nonsense
from sinkquant.flow.result import Choice, Options, Result
from sinkquant.flow.run import run
from sinkquant.formats.finished import Unfinished
from sinkquant.formats.manifest import amend_manifest
from sinkquant.models.source import Source
from sinkquant.recipes import Recipe, load_recipe
from sinkquant.recipes.candidates import candidate
from sinkquant.recipes.plain import plain_counterpart
from sinkquant.sinks.report import SinkReport, Verdict


def choose(
    model: Source, bits: int | None, target: str | None, overrides: Sequence[str], options: Options,
    stores: Unfinished,
) -> Result:  # fmt: skip
    """Quantize after the recipe that suits, or plainly where that measures better. Both checkpoints are written, one
    model at a time, side by side; the result has the place of the one to keep."""
    asked = load_recipe(candidate(bits, target), overrides)

    def revise(report: SinkReport | None) -> tuple[Recipe, str]:
        name, why = proposal(report, bits, target, overrides)
        return load_recipe(name, overrides), why

    if options.dry_run or options.output is None:
        made = run(model, asked, options, stores, revise=revise)
        name = made.plan.recipe.name
        return replace(made, choice=Choice(name, name, f"{made.plan.notes[0]}."))

    first, second = (options.output.with_name(name) for name in ("candidate", "plain"))
    made = run(model, asked, replace(options, output=first), stores, revise=revise)
    gc.collect()  # one model in memory at a time
    counterpart = plain_counterpart(made.plan.recipe.name, overrides)
    try:
        result = decide(made, run(model, counterpart, _in_silence(options, second), stores))
    except Nonsense:
        reason = f"{made.plan.notes[0]}; plain quantization leaves nothing of the model, so it is kept."
        name, own = made.plan.recipe.name, made.figures.get("result_perplexity")
        result = replace(made, choice=Choice(name, name, reason, own))
    _note(result)
    return result


def proposal(
    report: SinkReport | None, bits: int | None, target: str | None, overrides: Sequence[str]
) -> tuple[str, str]:
    """The recipe's name, and why, as a clause."""
    name, portable = candidate(bits, target), candidate(bits, "portable")
    if target is not None or report is None:
        return name, f"{name} is the recipe for the bits and the target that were asked for"
    if report.verdict != (Verdict.NONE,):
        kinds = " and ".join(report.verdict)
        return name, f"detection found {kinds} sinks, which {name} takes out of the way"
    if report.channels:
        return name, f"detection found no sinks but outlier channels, which {name} spreads by rotation"
    if not _allowed(portable, overrides):
        return name, f"detection found neither sinks nor outlier channels, but --set asks for more than {portable} has"
    return portable, f"detection found neither sinks nor outlier channels, so {portable} will do, which loads anywhere"


def decide(made: Result, plain: Result) -> Result:
    """The result with the better first metric on the held-out text; a tie is the candidate's."""
    name = made.metric
    own, other = (result.figures[f"result_{name}"] for result in (made, plain))
    plain_wins = other < own if METRICS[name].better == "lower" else other > own
    better, worse = (plain, made) if plain_wins else (made, plain)
    unit = METRICS[name].unit and f" {METRICS[name].unit}"
    figures = f"{name} {own:.3f}{unit} on held-out calibration data against {other:.3f}{unit} of plain quantization"
    verdict = "so the plain checkpoint is written" if better is plain else "so it is kept"
    reason = f"{made.plan.notes[0]}; it gives {figures}, {verdict}."
    scores = [result.figures.get("result_perplexity") for result in (made, plain)]
    choice = Choice(better.plan.recipe.name, made.plan.recipe.name, reason, *scores)
    seconds = better.seconds | {"comparison": sum(worse.seconds.values())}
    return replace(
        better, report=made.report, choice=choice, seconds=seconds, peak_bytes=max(made.peak_bytes, plain.peak_bytes)
    )


def _allowed(name: str, overrides: Sequence[str]) -> bool:
    try:
        load_recipe(name, overrides)
    except UsageError:
        return False
    return True


def _in_silence(options: Options, output: Path) -> Options:
    """The run of the plain counterpart: its stages are told apart, its plan is nobody's news."""
    tell = options.progress
    named = None if tell is None else lambda stage, done, total: tell(f"plain {stage}", done, total)
    return replace(options, output=output, progress=named, planned=None)


def _note(result: Result) -> None:
    """Put the choice into the manifest, and the report, which a plain run does not make."""
    assert result.path is not None
    assert result.choice is not None
    report = result.report.model_dump(mode="json") if result.report is not None else None
    amend_manifest(result.path, {"choice": asdict(result.choice), "report": report})
