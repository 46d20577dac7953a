"""Experts that transformers fuses while loading."""

from __future__ import annotations

from typing import Any

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from sinkquant.errors import SinkquantError


def refuse_float_experts(target: str, config: Any) -> None:
    """Raise SinkquantError where `target` is portable and stock loaders would look for packed experts.

    transformers (5.23) fuses experts that a checkpoint stores one by one, and takes those of a compressed-tensors
    checkpoint for quantized ones, whatever its config groups name.
    """
    if target != "portable":
        return
    conversions = get_checkpoint_conversion_mapping(config.get_text_config().model_type) or []
    if any("experts" in pattern for conversion in conversions for pattern in conversion.source_patterns):
        raise SinkquantError(
            "portable checkpoints with experts in float cannot be loaded by transformers, and experts are not "
            "quantized yet: use a sink-aware recipe, such as --recipe w8a8-static or w4a8kv4."
        )
