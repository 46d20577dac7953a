"""One walk through the model that records every signal at every token of every block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sinkquant.inputs.batches import Batch, token_batch
from sinkquant.models.attention import AttentionCall, taps
from sinkquant.models.roles import Roles
from sinkquant.models.stream import by_token
from sinkquant.progress import Progress
from sinkquant.sinks.signals.down_input import down_input_peaks
from sinkquant.sinks.signals.experts import Written, expert_calls, written_by_experts
from sinkquant.sinks.signals.kv_norms import head_mean_norm
from sinkquant.sinks.signals.range_waste import RangeWaste, range_waste, row_peaks
from sinkquant.sinks.signals.received_attention import ABOVE, received_attention
from sinkquant.sinks.signals.residual import channel_ratio, token_peaks, token_ratio
from sinkquant.sinks.signals.sink_logits import sink_logit_mass
from sinkquant.walk.walk import BlockRun, Walk, run_and_show


@dataclass(frozen=True, eq=False)
class Observation:
    """Signals of L blocks on N sequences of T tokens: (L, N, T) unless said otherwise."""

    ids: Tensor  # (N, T)
    embedding: Tensor  # (N, T) peaks of the first block's input
    residual: Tensor  # peaks of the block's output
    channel: Tensor  # channel of that peak
    down: Tensor  # peaks of the down projection's input
    column: Tensor  # column of that peak
    received: Tensor  # received attention, mean over heads
    heads_above: Tensor  # heads in which it is above 0.3
    key_norm: Tensor
    value_norm: Tensor
    logit_mass: Tensor  # share of a query's attention that goes to sink logits, mean over heads
    channels: Tensor  # (L, D) magnitude over the median channel's that nine of ten tokens exceed
    heads: int
    waste: tuple[RangeWaste, ...] = ()  # of every site's input
    written: tuple[Written, ...] = ()  # by experts, into the peaks of tokens that stand out

    @property
    def residual_ratio(self) -> Tensor:
        """Peaks over their sequence's median peak, (L, N, T)."""
        return token_ratio(self.residual)

    @property
    def down_ratio(self) -> Tensor:
        """The same at the down projection's input, (L, N, T)."""
        return token_ratio(self.down)

    def text(self, start: int) -> Observation:
        """The same without the first `start` tokens, so that a prefix is no part of the medians."""
        cut = {n: getattr(self, n)[..., start:] for n in ("ids", "embedding", *SIGNALS)}
        return Observation(**cut, channels=self.channels, heads=self.heads)


SIGNALS = ("residual", "channel", "down", "column", "received", "heads_above", "key_norm", "value_norm", "logit_mass")


def observe(
    model: nn.Module, roles: Roles, ids: Tensor, plain: int | None = None, progress: Progress | None = None
) -> Observation:
    """All signals of the last stack on `ids` (N, T) without padding; channel ratios come from the first `plain`
    sequences."""
    seen = observe_stacks(model, roles, [token_batch(ids)], plain, progress)[roles.stacks[-1].name]
    return replace(seen, ids=ids)


def observe_stacks(
    model: nn.Module,
    roles: Roles,
    batches: Sequence[Batch],
    plain: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Observation]:
    """All signals of every stack, by its name, on batches of one shape; `ids` are the places of the rows.

    Padding has the signals of its sequence's median row, so that it stands out nowhere.
    """
    found: dict[str, _Stack] = {}

    def visit(run: BlockRun) -> list[Tensor]:
        stack = found.setdefault(run.stack.name, _Stack(run))
        attended: list[dict[str, Tensor]] = []

        def tap(module: nn.Module, call: AttentionCall) -> AttentionCall:
            attended.append(_attention_signals(call))
            return call

        def show(name: str, rows: Tensor, real: Tensor) -> None:
            stack.peaks.setdefault(name, []).append(row_peaks(rows, real))

        attention = [model.get_submodule(run.roles.attention.module)] if run.roles.attention else []
        down = model.get_submodule(run.roles.down) if run.roles.down else None
        with taps(attention, tap), down_input_peaks(down) as peaks, expert_calls(run.module, run.roles.name) as calls:
            outputs = run_and_show(run, show)
        stack.written += written_by_experts(run, outputs, calls, len(stack.layers))
        tokens = [by_token(x, *mask.shape) for x, mask in zip(outputs, run.masks, strict=True)]
        stack.heads = max(stack.heads, run.roles.attention.heads if run.roles.attention else 0)
        layer = _layer(tokens, peaks, attended, plain)
        stack.layers.append({name: level(signal, stack.real) for name, signal in layer.items()})
        return outputs

    Walk(model, roles, batches).run(visit, progress)
    return {name: stack.observation() for name, stack in found.items()}


class _Stack:
    """What is seen of one stack, block by block."""

    def __init__(self, run: BlockRun) -> None:
        pairs = zip(run.inputs, run.masks, strict=True)
        embedding = torch.cat([token_peaks(by_token(x, *mask.shape))[0] for x, mask in pairs])
        self.real = torch.cat(run.masks)
        self.embedding = level(embedding, self.real)
        self.layers: list[dict[str, Tensor]] = []
        self.peaks: dict[str, list[Tensor]] = {}
        self.written: list[Written] = []
        self.heads = 0

    def observation(self) -> Observation:
        """Everything, stacked."""
        signals = {name: torch.stack([layer[name] for layer in self.layers]) for name in (*SIGNALS, "channels")}
        places = torch.arange(self.real.shape[1], device=self.real.device).expand(self.real.shape)
        waste = tuple(range_waste(name, torch.cat(peaks)) for name, peaks in self.peaks.items())
        return Observation(
            ids=places, embedding=self.embedding, heads=self.heads, waste=waste, written=tuple(self.written), **signals
        )


def level(signal: Tensor, real: Tensor) -> Tensor:
    """A signal (N, T) with the median of its sequence at places that are not `real`; others are as they are."""
    if signal.shape != real.shape or bool(real.all()):
        return signal
    filled = signal.clone()
    for row, mask in zip(filled, real, strict=True):
        row[~mask] = row[mask].median()
    return filled


def _attention_signals(call: AttentionCall) -> dict[str, Tensor]:
    received = received_attention(call)  # (B, H, S)
    return {
        "received": received.mean(dim=1),
        "heads_above": (received > ABOVE).sum(dim=1),
        "key_norm": head_mean_norm(call.key),
        "value_norm": head_mean_norm(call.value),
        "logit_mass": sink_logit_mass(call),
    }


def _layer(
    outputs: list[Tensor],
    peaks: list[tuple[Tensor, Tensor]],
    attended: list[dict[str, Tensor]],
    plain: int | None,
) -> dict[str, Tensor]:
    """One block's signals, (N, T) each; zeros where the block has no such part."""
    residual, channel = (torch.cat(x) for x in zip(*(token_peaks(o) for o in outputs), strict=True))
    nothing = torch.zeros_like(residual)
    layer = {"residual": residual, "channel": channel, "down": nothing, "column": torch.zeros_like(channel)}
    shape = residual.shape  # some models hand their feed-forward flat rows, some only those of an expert
    if peaks and sum(p.numel() for p, _ in peaks) == shape.numel():
        layer["down"] = torch.cat([p.reshape(-1) for p, _ in peaks]).reshape(shape)
        layer["column"] = torch.cat([c.reshape(-1) for _, c in peaks]).reshape(shape)
    for name in ("received", "heads_above", "key_norm", "value_norm", "logit_mass"):
        seen = torch.cat([a[name] for a in attended]) if attended else nothing
        layer[name] = seen if seen.shape == shape else nothing  # attention over other keys than the tokens'
    layer["channels"] = channel_ratio(torch.cat(outputs)[:plain])
    return layer
