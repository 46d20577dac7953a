"""Load a model, explain it, and read what it is calibrated on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sinkquant.errors import shown
from sinkquant.flow.loadable import refuse_unloadable
from sinkquant.flow.plan import refuse_plan
from sinkquant.flow.prove import require_measurable
from sinkquant.flow.result import Options
from sinkquant.flow.session import Session
from sinkquant.formats.format import FORMATS
from sinkquant.models.attention import implementations
from sinkquant.models.experts import part_experts
from sinkquant.models.finite import check_finite
from sinkquant.models.fit import check_ids
from sinkquant.models.load import load_model
from sinkquant.models.side_files import left_out
from sinkquant.models.source import Source, local_folder
from sinkquant.models.trace import trace_roles
from sinkquant.recipes.schema import CalibrationSpec, Recipe
from sinkquant.tasks.task import Ask
from sinkquant.tasks.tasks import find_task

HELD_OUT = 2  # sequences behind the calibration text that the proof is measured on


def begin(source: Source, recipe: Recipe, options: Options, *, settled: bool) -> Session:
    """The session that everything else works on; `settled`: the recipe is the one that will be followed.

    Raises SinkquantError for a model or for data that cannot be used, before any work.
    """
    task = find_task(source, options.task)
    processor = task.processor(source)
    network = load_model(source, auto=task.auto, dtype=torch.float32)
    network.requires_grad_(False)
    check_finite(network)
    attention = implementations(network.config)
    if settled:
        part_rounded(network, recipe)
    roles = trace_roles(network, task.probe(network))
    if isinstance(recipe.sinks.prefix, tuple):
        check_ids(recipe.sinks.prefix, network, "sinks.prefix", "name ids below that, or set sinks.prefix=auto")
    links = left_out(local_folder(source)) if source.gguf_file is None else []
    require_measurable(recipe.proof, task)
    if settled:
        refuse_plan(recipe, roles)
        refuse_unloadable(recipe, network, roles)
    data = task.read(ask(recipe, options.calibration), processor, network, roles)
    notes = (f"{shown(name)} is a link, which is not followed: the checkpoint goes without it" for name in links)
    data = replace(data, notes=(*data.notes, *notes))
    return Session(network, roles, task, processor, source.label, source, data, attention, data.begin)


def part_rounded(model: Any, recipe: Recipe) -> bool:
    """Take those experts of `model` apart that the recipe rounds and its format can hold; returns whether any were."""
    if min(recipe.weights.bits, recipe.activations.bits) == 16:
        return False
    return bool(part_experts(model, FORMATS[recipe.target].experts(model)))


def ask(recipe: Recipe, source: str | None) -> Ask:
    """The data that a recipe asks for; `source` stands in for that of the recipe, whose default means none is named."""
    spec, sinks = recipe.calibration, recipe.sinks
    front = sinks.max_prefix if sinks.prefix == "auto" or sinks.exclude else 0
    given = len(sinks.prefix) if isinstance(sinks.prefix, tuple) else 0
    named = None if spec.source == CalibrationSpec().source else spec.source
    return Ask(
        source or named, spec.sequences, HELD_OUT, spec.length, spec.seed, spec.column, spec.bos,
        max(front, given),
    )  # fmt: skip
