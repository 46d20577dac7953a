"""Put the prefix in front of a tokenized prompt. Knows nothing of vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sinkquant.runtime.config import KEY


def prefix_of(config: Any) -> tuple[int, ...]:
    """The prefix's token ids as the checkpoint's configuration states them; empty where there is none."""
    return tuple((getattr(config, KEY, None) or {}).get("prefix", ()))


def complete(prompt: Mapping[str, Any], prefix: tuple[int, ...]) -> dict[str, Any]:
    """The prompt with `prefix` in front of its `prompt_token_ids`, unless it begins with it already.

    A prompt that begins with the prefix (a chat template that writes BOS, a continued text) gives its own first tokens
    for it. Character offsets, where there are any, get empty spans for what was put in front.
    """
    ids = list(prompt["prompt_token_ids"])
    if tuple(ids[: len(prefix)]) == prefix:
        return dict(prompt)
    made = {**prompt, "prompt_token_ids": [*prefix, *ids]}
    if made.get("prompt_token_offsets") is not None:
        made["prompt_token_offsets"] = [(0, 0)] * len(prefix) + list(made["prompt_token_offsets"])
    return made
