"""Figures of single sinks and of blocks, read off an observation: pure functions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sinkquant.models.roles import Roles
from sinkquant.sinks.classify import emergence_and_drop
from sinkquant.sinks.observe import Observation
from sinkquant.sinks.report import LayerStats, Sink
from sinkquant.sinks.signals.origin import find_origin
from sinkquant.sinks.signals.residual import token_ratio
from sinkquant.sinks.super_experts import origin_of, super_experts


def measure_sink(
    model: Any,
    roles: Roles,
    seen: Observation,
    where: Tensor,
    threshold: float,
    *,
    token: str,
    token_id: int | None,
    position: int | None,
    frequency: float,
) -> Sink:
    """The sink found at `where` (N, T) bool; every figure is a median over its occurrences."""

    def curve(signal: Tensor) -> Tensor:
        return signal[:, where].float().median(dim=1).values  # (L, N, T) -> (L,)

    ratio, down = curve(seen.residual_ratio), curve(seen.down_ratio)
    emergence = drop = origin = channel = None
    if float(ratio.max()) >= threshold:
        emergence, drop = emergence_and_drop(curve(seen.residual), float(seen.embedding[where].median()))
        module = roles.blocks[emergence].down
        channel = int(seen.channel[emergence][where].mode().values)
        column = int(seen.column[emergence][where].mode().values)
        origin = origin_of(super_experts(model, seen, where), emergence) or find_origin(
            model.get_submodule(module) if module else None, emergence, channel, column
        )
    return Sink(
        token=token, token_id=token_id, position=position, emergence=emergence, drop=drop,
        residual_ratio=float(ratio.max()), down_ratio=float(down.max()),
        received_attention=float(curve(seen.received).max()), heads_above=int(curve(seen.heads_above).max()),
        heads=seen.heads, frequency=frequency, origin=origin, channel=channel,
    )  # fmt: skip


def layer_stats(seen: Observation, rows: list[int]) -> tuple[LayerStats, ...]:
    """Every block on the plain sequences `rows`; one strongest sink a sequence, the same in all blocks."""
    strongest = seen.received[:, rows].sum(dim=0).argmax(dim=-1)  # (N,)

    def peak(signal: Tensor) -> Tensor:
        return signal[:, rows].amax(dim=-1).median(dim=1).values  # (L,)

    def at_sink(signal: Tensor) -> Tensor:
        index = strongest[None, :, None].expand(len(signal), -1, 1)
        return signal[:, rows].float().gather(2, index)[..., 0].median(dim=1).values  # (L,)

    largest = seen.residual[:, rows].argmax(dim=-1, keepdim=True)
    channel = seen.channel[:, rows].gather(2, largest)[..., 0].mode(dim=1).values
    columns = {
        "residual_ratio": peak(seen.residual_ratio),
        "residual_max": peak(seen.residual),
        "down_ratio": peak(seen.down_ratio),
        "down_max": peak(seen.down),
        "received_attention": at_sink(seen.received),
        "key_norm_ratio": at_sink(token_ratio(seen.key_norm)),
        "value_norm_ratio": at_sink(token_ratio(seen.value_norm)),
    }
    mass = seen.logit_mass[:, rows].mean(dim=(1, 2))
    above = at_sink(seen.heads_above)
    return tuple(
        LayerStats(
            index=i, residual_channel=int(channel[i]), heads_above=int(above[i]), heads=seen.heads,
            sink_logit_mass=float(mass[i]), **{name: float(values[i]) for name, values in columns.items()},
        )
        for i in range(len(above))
    )  # fmt: skip


def occurrences(seen: Observation, token: int, rows: Tensor) -> int:
    """How often `token` stands in the sequences `rows` (N,) bool, at least 1."""
    return max(1, int(((seen.ids == token) & rows[:, None]).sum()))
