"""Make transformers know sink-aware checkpoints, each part as soon as the module that it extends is imported."""

from __future__ import annotations


def register_config() -> None:
    """`AutoConfig` learns the model type; nothing that exists is replaced."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

    from sinkquant.runtime.config import MODEL_TYPE, SinkquantConfig

    if MODEL_TYPE not in CONFIG_MAPPING:
        AutoConfig.register(MODEL_TYPE, SinkquantConfig)


def register_runtime() -> None:
    """`from_pretrained` learns the quantization method."""
    from transformers.quantizers.auto import (
        AUTO_QUANTIZER_MAPPING,
        register_quantization_config,
        register_quantizer,
    )

    from sinkquant.runtime.config import METHOD, SinkquantQuantization
    from sinkquant.runtime.quantizer import SinkquantQuantizer

    if METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(METHOD)(SinkquantQuantization)
        register_quantizer(METHOD)(SinkquantQuantizer)
