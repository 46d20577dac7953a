"""Inputs that several linears get, made ready once: those of q, k and v, of gate and up."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Ready(NamedTuple):
    """An input as a kernel takes it, and what of it stays in float: some rows, some channels."""

    operand: Any
    spikes: Tensor | None = None  # (…, k) of the input as it came
    routed: tuple[Tensor, Tensor] | None = None  # where (rows,) bool, and those rows (n, in) of the prepared input


@dataclass(frozen=True)
class _Kept:
    source: weakref.ref[Tensor]
    version: int
    way: Hashable
    takers: set[object]
    ready: Ready


class SharedInputs:
    """Keeps what one linear made of an input as long as the input lives, for its siblings.

    A linear takes it once only: when it is called again with the same tensor, that may hold other numbers. torch does
    not count changes of tensors made under `inference_mode`, so there none may be changed between two siblings' calls.
    """

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def take(self, x: Tensor, taker: object, way: Hashable, make: Callable[[Tensor], Ready]) -> Ready:
        """What another taker's `make` has returned for the tensor `x` in the same `way`, or what this one returns."""
        if torch.compiler.is_compiling():
            return make(x)
        version = 0 if x.is_inference() else x._version  # changes of inference tensors are not counted
        kept = self._kept
        if (
            kept is not None
            and kept.source() is x
            and (kept.version, kept.way) == (version, way)
            and taker not in kept.takers
        ):
            kept.takers.add(taker)
            return kept.ready
        ready = make(x.detach())  # what is a view of `x` itself would keep it alive
        self._kept = _Kept(weakref.ref(x, self._forget), version, way, {taker}, ready)
        return ready

    def _forget(self, gone: weakref.ref[Tensor]) -> None:
        kept = self._kept
        if kept is not None and kept.source is gone:
            self._kept = None

    def __reduce__(self) -> tuple[type[SharedInputs], tuple[()]]:
        """A copy starts empty."""
        return SharedInputs, ()
