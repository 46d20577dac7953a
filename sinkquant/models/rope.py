"""Which rotary positions a model has, by its configuration."""

from __future__ import annotations

from typing import Any


def rope_kind(config: Any) -> str:
    """ "default", "llama3", … by transformers' names, "dynamic" where frequencies change with the length of the text,
    "none" without any."""
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None)
    if not parameters:  # GPT-J's kind has no parameters, only a number of channels that are rotated
        return "default" if getattr(text, "rotary_dim", None) else "none"
    kinds = {p.get("rope_type", "default") for p in parameters.values() if isinstance(p, dict)} or {
        parameters.get("rope_type", "default")
    }
    return "dynamic" if kinds & {"dynamic", "longrope"} else "+".join(sorted(kinds))
