"""Activation spikes: tokens far out at the input of a feed-forward's last linear: static ranges break there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from sinkquant.sinks.signals.residual import token_peaks


@contextmanager
def down_input_peaks(down: nn.Module | None) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect peaks (B, T) and their columns (B, T) of every call of `down`; nothing where there is no such linear."""
    seen: list[tuple[Tensor, Tensor]] = []
    if down is None:
        yield seen
        return
    hook = down.register_forward_pre_hook(lambda _, args: seen.append(token_peaks(args[0])))
    try:
        yield seen
    finally:
        hook.remove()
