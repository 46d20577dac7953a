"""One recipe, one checkpoint: the stages in order."""

from __future__ import annotations

import gc
from typing import Any

from sinkquant.evaluation.metric import METRICS
from sinkquant.evaluation.nonsense import reference
from sinkquant.flow.begin import begin
from sinkquant.flow.blocks import quantize_blocks
from sinkquant.flow.budget import spend_budget
from sinkquant.flow.decide import Revise, decide
from sinkquant.flow.detect import detect_loaded
from sinkquant.flow.ends import quantize_ends
from sinkquant.flow.estimate import estimate
from sinkquant.flow.export import export
from sinkquant.flow.facts import facts_of, identity
from sinkquant.flow.prove import metrics_of, prove, take_baseline
from sinkquant.flow.result import Options, Result
from sinkquant.flow.timing import Stages, peak_memory
from sinkquant.flow.transform import transform
from sinkquant.flow.tune import teacher_of, tune
from sinkquant.formats.finished import Unfinished
from sinkquant.formats.folder import check_space
from sinkquant.formats.manifest import amend_manifest
from sinkquant.models.source import Source
from sinkquant.recipes import Recipe


def run(model: Source, recipe: Recipe, options: Options, stores: Unfinished, *, revise: Revise | None = None) -> Result:
    """`revise` may replace the recipe after detection; finished blocks go to `stores`."""
    for name in recipe.proof.metrics:
        METRICS[name]  # an unknown one is an error before the work
    stages, folder = Stages(options.progress), options.output
    report, figures = None, dict[str, Any]()
    with stages("load"):
        session = begin(model, recipe, options, settled=revise is None)
    with stages("detect", steps=True) as tell:
        if recipe.sinks.prefix == "auto" or recipe.sinks.exclude:
            report = detect_loaded(session, max_prefix=recipe.sinks.max_prefix, tell=tell)
    session, plan = decide(session, recipe, report, revise)
    if options.planned is not None:
        options.planned(plan, estimate(plan, session.data.calibration.tokens))
    if options.dry_run or folder is None:
        return Result(None, plan, report, {}, stages.seconds, peak_memory())
    check_space(folder.parents[1], plan.bytes)
    with stages("baseline"):
        baseline = take_baseline(session, plan)
    with stages("transform"):
        figures["transform_error"] = transform(session, plan)
    before = reference(session.task, session.model, session.calibration)
    known = identity(session, plan)
    store = stores.open(known)
    if plan.recipe.weights.budget is not None:
        with stages("sensitivity", steps=True) as tell:
            plan, figures["sensitivity"] = spend_budget(session, plan, store, tell)
    teacher = None
    if plan.recipe.tuning.epochs:
        with stages("targets"):
            teacher = teacher_of(session, plan.recipe.tuning)
    with stages("quantize", steps=True) as tell:
        plan, experts, found = quantize_blocks(session, plan, store, tell)
        quantize_ends(session, plan)
    figures |= found
    gc.collect()
    if teacher is not None:
        with stages("tune", steps=True) as tell:
            figures["tuning"] = tune(session, teacher, plan.recipe.tuning, tell)
        del teacher
    folder.mkdir()
    facts = facts_of(session, plan, report, experts)
    with stages("export"):
        export(session, plan, folder, facts, figures)
    with stages("prove"):
        proved, probe = prove(folder, session, plan, baseline, before)
        figures |= proved
        measured = {"figures": figures, "probe": probe, "seconds": stages.seconds, "peak_bytes": stages.peaks}
        amend_manifest(folder, measured)
    metric = metrics_of(plan.recipe.proof, session.task)[0]
    return Result(folder, plan, report, figures, stages.seconds, peak_memory(), metric=metric, experts=experts)
