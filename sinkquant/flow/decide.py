"""From what was found in a model to what will be done with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sinkquant.flow.begin import part_rounded
from sinkquant.flow.loadable import loadable, refuse_unloadable
from sinkquant.flow.plan import Plan, make_plan, weight_shapes
from sinkquant.flow.session import Session
from sinkquant.flow.super_experts import keep_super_experts
from sinkquant.flow.transform import no_prefix
from sinkquant.models.trace import trace_roles
from sinkquant.recipes.schema import Recipe
from sinkquant.sinks.report import SinkReport

Revise = Callable[[SinkReport | None], tuple[Recipe, str]]
"""A recipe for what detection found, with the same calibration as the one before, and why."""


def decide(session: Session, recipe: Recipe, report: SinkReport | None, revise: Revise | None) -> tuple[Session, Plan]:
    """The plan, and the session that carries it out: with the report's threshold, without BOS in front of a text where
    the prefix holds it, and with the experts apart that a revised recipe rounds."""
    why: list[str] = []
    if revise is not None:
        recipe, *why = revise(report)
        if part_rounded(session.model, recipe):
            session = replace(session, roles=trace_roles(session.model, session.task.probe(session.model)))
        refuse_unloadable(recipe, session.model, session.roles)
    prefix = prefix_of(recipe, report)
    shapes = weight_shapes(session.model, session.roles)
    plan = make_plan(recipe, prefix, session.roles, shapes, no_prefix(session, prefix))
    plan = keep_super_experts(plan, () if report is None else report.super_experts, shapes)
    plan = loadable(plan, session.model, session.roles, shapes, session.task.probe(session.model))
    plan = replace(plan, notes=(*why, *session.data.notes, *plan.notes))
    threshold = session.threshold if report is None else report.threshold
    begin = None if session.data.begin in plan.prefix else session.data.begin
    return replace(session, threshold=threshold, begin=begin), plan


def prefix_of(recipe: Recipe, report: SinkReport | None) -> tuple[int, ...]:
    """The ids that the recipe or the report puts in front."""
    if recipe.sinks.prefix == "none":
        return ()
    if recipe.sinks.prefix == "auto":
        return () if report is None else report.prefix.ids
    return tuple(recipe.sinks.prefix)
