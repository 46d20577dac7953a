"""Which programs can run a checkpoint, and what is lost there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Runtime:
    """`loads`: whether the checkpoint runs there; `loss`: what is missing or not gained, in a sentence."""

    name: str
    loads: bool
    loss: str


def runtimes(target: str, prefix: bool, kv: Mapping[str, Any]) -> tuple[Runtime, ...]:
    """For a checkpoint of `target` kind, with a prefix or without, and the scheme of its keys and values."""
    return _portable() if target == "portable" else _sink_aware(prefix, kv)


def _portable() -> tuple[Runtime, ...]:
    same = "nothing: everything is fused into the weights"
    return (
        Runtime("transformers + compressed-tensors", True, f"{same}; weights are unpacked to float at the first call"),
        Runtime("transformers + sinkquant", True, f"{same}; files are checked before they are loaded"),
        Runtime("vLLM", True, f"{same}; needs a kernel for these bits and groups on the device"),
        Runtime("SGLang", True, f"{same}; reads this format by its documentation, not tried by this project"),
    )


def _sink_aware(prefix: bool, kv: Mapping[str, Any]) -> tuple[Runtime, ...]:
    why = "the prefix and the online rotations" if prefix else "the online rotations and the scheme of every module"
    stock = f"refuses it with an error: {why} need sinkquant"
    if kv.get("recent"):
        vllm = Runtime("vLLM + sinkquant", False, "keeps no newest tokens in full precision; use kv_cache.recent=0")
    else:
        loss = "the cache is rounded but does not shrink" if kv["bits"] < 16 else "nothing"
        vllm = Runtime("vLLM + sinkquant", True, loss + ("; every prompt begins with the prefix" if prefix else ""))
    return (
        Runtime("transformers + sinkquant", True, "nothing"),
        Runtime("transformers", False, stock),
        vllm,
        Runtime("vLLM", False, stock),
        Runtime("SGLang", False, stock),
    )
