"""The table of a model that has one vector a position."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from sinkquant.models.record import Trace, run_probe
from sinkquant.models.roles import Positions


def find_positions(model: nn.Module, trace: Trace, tokens: str | None, shared: Collection[int]) -> Positions | None:
    """The table whose rows, one after the other from some row on, stand beside the tokens of the probe, whatever those
    are; None without one, and where another module has the same weight (`shared`: ids of such).

    `tokens`: the module that looks tokens up.
    """
    lengths = {t.shape[1] for t in trace.probe.tensors.values() if t.dim() == 2}
    for event in trace.events:
        if event.name == tokens or not isinstance(event.module, nn.Embedding) or id(event.module.weight) in shared:
            continue
        weight, given = event.module.weight, event.output.flatten(0, -2)
        first = _first(given, weight) if len(given) in lengths else None
        if first is not None:
            counted = takes_ids(model, trace, len(given))
            return Positions(f"{event.name}.weight", first, len(weight) - first, counted)
    return None


def _first(given: Tensor, weight: Tensor) -> int | None:
    """The first of the rows of `weight` that are `given`, if they follow each other."""
    if given.shape[-1] != weight.shape[-1]:
        return None
    starts = (weight == given[0]).all(-1).nonzero().flatten().tolist()
    return next((first for first in starts if given.equal(weight[first : first + len(given)])), None)


def takes_ids(model: nn.Module, trace: Trace, tokens: int) -> bool:
    """Whether the model takes position ids of which 0 is the first token's."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    ids = replace(trace.probe, tensors={**trace.probe.tensors, "position_ids": torch.arange(tokens)[None]})
    assert trace.output is not None
    moved = (run_probe(model, ids, own=trace.own) - trace.output).abs().max()
    return bool(moved <= 1e-4 * trace.output.abs().max())
