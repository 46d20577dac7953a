"""The vLLM plug-in: sink-aware checkpoints are served with their prefix. See docs/vllm.md.

vLLM finds `register` through the entry point `vllm.general_plugins` and calls it in each of its processes.
"""

from __future__ import annotations


def register() -> None:
    """Make vLLM know the quantization method, and let its prompts begin with the prefix. May be called repeatedly."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS, register_quantization_config
    from vllm.renderers.registry import RENDERER_REGISTRY

    from sinkquant.integrations.vllm.config import ServedConfig
    from sinkquant.runtime.config import METHOD
    from sinkquant.runtime.register import register_config

    register_config()
    if METHOD not in QUANTIZATION_METHODS:
        register_quantization_config(METHOD)(ServedConfig)
    # The renderer of ordinary tokenizers; for models without a prefix ours does what vLLM's does.
    RENDERER_REGISTRY.renderers["hf"] = ("sinkquant.integrations.vllm.prompts", "PrefixRenderer")
