"""What transformations are called where people read of them: in a plan and in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def fused(rotations: Mapping[str, Any]) -> Iterator[str]:
    """Those in the weights, from the fields of `quantization.scheme.Transforms`, as a manifest has them too."""
    if rotations.get("fold_norms"):
        yield "norms folded"
    if rotations.get("smooth"):
        yield "smoothing"
    if rotations.get("stream"):
        yield "R1 (stream)"
    if rotations.get("values") and not rotations.get("smooth"):
        yield f"R2 (values, {len(rotations['values'])} blocks)"


def online(*, rotate: bool, balance: bool, linears: int) -> Iterator[str]:
    """Those computed at run time: of keys and queries, and of the inputs of so many linears."""
    if rotate:
        yield "R3 (queries and keys)"
    if balance:
        yield "balanced queries and keys"
    if linears:
        yield f"rotated inputs ({linears} linears)"
