"""Experts whose down projection writes the spikes (Su et al., arXiv 2507.23279), by what they were seen to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sinkquant.models.experts import expert_of
from sinkquant.sinks.observe import Observation
from sinkquant.sinks.report import Origin, SuperExpert
from sinkquant.sinks.signals.experts import Written

LEAST = 0.1  # of a spike: the paper counts experts above a tenth of the largest output


def super_experts(model: Any, seen: Observation, where: Tensor) -> tuple[SuperExpert, ...]:
    """Those that write at least a tenth of the spikes of the sink tokens `where` (N, T) bool, first who writes most."""
    written: dict[tuple[int, str], list[Written]] = {}
    for one in seen.written:
        written.setdefault((one.block, one.module), []).append(one)
    spikes = seen.residual.amax(dim=0).flatten()
    found = [expert for parts in written.values() for expert in _of_module(model, parts, where.flatten(), spikes)]
    return tuple(sorted(found, key=lambda one: -one.share * one.frequency))


def _of_module(model: Any, parts: Sequence[Written], sinks: Tensor, spikes: Tensor) -> Iterator[SuperExpert]:
    """Those of one module of experts; `sinks` and `spikes` (N·T,)."""
    block, module = parts[0].block, parts[0].module
    token, channel = (torch.cat([getattr(one, name) for one in parts]) for name in ("token", "channel"))
    names = ("expert", "score", "amount", "column")
    expert, score, amount, column = (torch.cat([getattr(one, name) for one in parts]) for name in names)
    share = amount / spikes[token][:, None].clamp_min(1e-12)  # (n, k)
    chosen = sinks[token][:, None].expand_as(expert)
    for number in expert[chosen].unique().tolist():
        mine = chosen & (expert == number)
        if float(share[mine].median()) < LEAST:
            continue
        row = int(channel[mine.any(dim=1)].mode().values)
        unit = int(column[mine].mode().values)
        weight = expert_of(model.get_submodule(module), number).down_proj.weight
        yield SuperExpert(
            module=module, layer=block, expert=number, row=row, column=unit, value=float(weight[row, unit]),
            share=float(share[mine].median()), score=float(score[mine].float().median()),
            frequency=int(mine.sum()) / int(sinks.sum()),
        )  # fmt: skip


def origin_of(found: Sequence[SuperExpert], layer: int) -> Origin | None:
    """The weight of the expert of block `layer` that writes most, if one does."""
    one = next((one for one in found if one.layer == layer), None)
    if one is None:
        return None
    return Origin(layer=layer, row=one.row, column=one.column, value=one.value, expert=one.expert)
