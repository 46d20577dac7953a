"""The sinks of a model that is fed more than text in front of one decoder, in the words of its task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Roles, Stack
from sinkquant.sinks.classify import (
    agreement,
    choose_threshold,
    outlier_channels,
    sink_channels,
    sink_tokens,
    sweep_thresholds,
    verdicts,
)
from sinkquant.sinks.groups import USUAL, groups_of
from sinkquant.sinks.measure import layer_stats, measure_sink
from sinkquant.sinks.observe import Observation, observe_stacks
from sinkquant.sinks.report import Channel, LayerStats, PrefixChoice, Sink, SinkReport, SuperExpert, Waste
from sinkquant.sinks.signals.range_waste import RangeWaste
from sinkquant.sinks.super_experts import super_experts
from sinkquant.tasks.task import Task

SHOWN = 12  # inputs whose range waste is reported
NOWHERE = "the sinks are not in front of everything else, so no constant of the attention takes them"


@dataclass(frozen=True, eq=False)
class _Found:
    sinks: list[Sink]
    channels: list[Channel]
    experts: list[SuperExpert]
    layers: list[LayerStats]
    threshold: float
    sweep: dict[float, int]
    count: int
    positional: bool


def survey(
    model: Any,
    roles: Roles,
    task: Task,
    batch: Batch,
    *,
    label: str,
    digest: str,
    texts: Callable[[int], str] = str,
    progress: Callable[[int, int], None] | None = None,
) -> SinkReport:
    """Detect the sinks of every stack on the samples of one `batch`. `texts` gives the word for a token id.

    Blocks are counted over all stacks. The threshold is that of the stack with the most sinks.
    """
    start, offset = perf_counter(), 0
    seen = observe_stacks(model, roles, [batch], progress=progress)
    found = []
    for stack in roles.stacks:
        found.append(_stack(model, roles, task, batch, stack, seen[stack.name], offset, texts))
        offset += len(stack.blocks)
    first = max(found, key=lambda part: part.count)
    content = any(sink.token_id is not None or sink.position is None for part in found for sink in part.sinks)
    sinks = sum(part.count for part in found)
    reason = NOWHERE if sinks else "the model has no sinks: no prefix is needed"
    waste = sorted((w for one in seen.values() for w in one.waste), key=lambda w: -w.dispersion)
    return SinkReport(
        model=label,
        verdict=verdicts(
            any(part.positional for part in found), content,
            any(channel.every_token for part in found for channel in part.channels),
        ),
        sinks=tuple(sink for part in found for sink in part.sinks),
        channels=tuple(channel for part in found for channel in part.channels),
        prefix=PrefixChoice(
            ids=(), tokens=(), reason=reason, absorbed=not sinks, left=sinks, trials=(), loss_without=None,
            loss_with=None,
        ),
        residual=(),
        layers=tuple(layer for part in found for layer in part.layers),
        threshold=first.threshold,
        sweep=first.sweep,
        bos="none",
        tokens=sum(one.ids.numel() for one in seen.values()),
        seconds=perf_counter() - start,
        calibration=digest,
        task=task.name,
        waste=reported(waste),
        super_experts=tuple(expert for part in found for expert in part.experts),
    )  # fmt: skip


def reported(waste: Sequence[RangeWaste]) -> tuple[Waste, ...]:
    """The worst inputs, worst first."""
    worst = sorted(waste, key=lambda one: -one.dispersion)[:SHOWN]
    return tuple(Waste(module=w.module, underflow=w.underflow, dispersion=w.dispersion, bits=w.bits) for w in worst)


def _stack(
    model: Any, roles: Roles, task: Task, batch: Batch, stack: Stack, seen: Observation, offset: int,
    texts: Callable[[int], str],
) -> _Found:  # fmt: skip
    alone, ratio = replace(roles, stacks=(stack,)), seen.residual_ratio
    sweep = sweep_thresholds(ratio)
    threshold = choose_threshold(sweep, agreement(ratio, seen.received))
    where = sink_tokens(seen, threshold)  # (N, R)
    groups = groups_of(model, task, batch, stack, where, texts)
    name = stack.name if len(roles.stacks) > 1 else None
    sinks = [
        _moved(
            measure_sink(
                model, alone, seen, one.where, threshold, token=one.word, token_id=one.token_id, position=one.position,
                frequency=one.share,
            ).model_copy(update={"patch": one.patch}),
            offset, name,
        )
        for one in groups
    ]  # fmt: skip
    sinks = _told_apart(sinks) if stack.rows is not None else sinks
    positional = any(one.position is not None and one.share >= USUAL for one in groups)
    channels = [
        channel.model_copy(update={"blocks": tuple(block + offset for block in channel.blocks)})
        for channel in (*sink_channels(seen, where, threshold), *outlier_channels(seen.channels))
    ]
    layers = [
        layer.model_copy(update={"index": layer.index + offset})
        for layer in layer_stats(seen, list(range(len(seen.ids))))
    ]
    experts = [one.model_copy(update={"layer": one.layer + offset}) for one in super_experts(model, seen, where)]
    return _Found(sinks, channels, experts, layers, threshold, sweep, int(where.sum()), positional)


def _told_apart(sinks: list[Sink]) -> list[Sink]:
    """Patches among text: whether they peak in the channels of the text's own sinks."""
    text = {sink.channel for sink in sinks if sink.patch is None} - {None}
    return [
        sink if sink.patch is None or sink.channel is None
        else sink.model_copy(update={"same_channel": sink.channel in text})
        for sink in sinks
    ]  # fmt: skip


def _moved(sink: Sink, offset: int, stack: str | None) -> Sink:
    """Blocks counted over all stacks."""
    origin = sink.origin and sink.origin.model_copy(update={"layer": sink.origin.layer + offset})
    moved = {key: None if (at := getattr(sink, key)) is None else at + offset for key in ("emergence", "drop")}
    return sink.model_copy(update={**moved, "origin": origin, "stack": stack})
