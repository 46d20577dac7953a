"""The quantization config that vLLM asks for the method of every layer; it reads what `runtime/config.py` writes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from vllm.config import get_current_vllm_config
from vllm.logger import init_logger
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

from sinkquant.errors import SinkquantError
from sinkquant.integrations.vllm.attention import ServedAttention
from sinkquant.integrations.vllm.embedding import ServedEmbedding
from sinkquant.integrations.vllm.keys import rotary_frequencies, turns_halves
from sinkquant.integrations.vllm.linear import ServedLinear
from sinkquant.integrations.vllm.mapper import CheckpointMapper
from sinkquant.integrations.vllm.names import scheme_of
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.config import METHOD, SinkquantQuantization

logger = init_logger(__name__)


class ServedConfig(QuantizationConfig):
    """One sink-aware checkpoint. Raises SinkquantError for what vLLM cannot do with it."""

    def __init__(self, stored: SinkquantQuantization) -> None:
        super().__init__()
        self.stored, self.hf_config = stored, None
        self.linears, self.attentions, self.shapes = stored.linears, stored.attentions, stored.kv_shapes
        if stored.positions != "rotary":
            raise SinkquantError(
                "the model's positions begin behind the prefix, with which prompts begin in vLLM: quantize with "
                "sinks.prefix=none to serve with it."
            )
        if stored.cached:
            raise SinkquantError(
                "keys and values of this checkpoint are rounded in a cache of transformers, which vLLM has not: "
                "quantize with kv_cache.bits=16 to serve with it."
            )
        for scheme in self.attentions.values():
            if scheme.recent:
                raise SinkquantError(
                    "vLLM keeps no newest tokens in full precision: quantize with kv_cache.recent=0 to serve with it."
                )
            if scheme.bits < 16:
                logger.warning_once(
                    "Keys and values are rounded to %d bits but stored in float: vLLM's cache does not shrink.",
                    scheme.bits,
                )

    def get_name(self) -> str:  # type: ignore[override]
        """The method's name."""
        return METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        """All that models are served in."""
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        """Int8 kernels begin with compute capability 7.5."""
        return 75

    @staticmethod
    def get_config_filenames() -> list[str]:
        """Everything stands in config.json."""
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ServedConfig:
        """From the `quantization_config` of config.json."""
        return cls(SinkquantQuantization.from_dict(config))

    def maybe_update_config(self, model_name: str, hf_config: Any = None, revision: str | None = None) -> None:
        """vLLM hands in the model's configuration; it is needed to turn the prefix's keys."""
        self.hf_config = hf_config
        if self.stored.prefix_length and not turns_halves(hf_config.model_type):
            raise SinkquantError(
                f"rotary embedding of {hf_config.model_type} is not known to pair halves of a head, so its prefix "
                "cannot be turned to vLLM's positions: quantize with sinks.prefix=none."
            )

    def apply_vllm_mapper(self, hf_to_vllm_mapper: Any) -> None:
        """Names of the checkpoint become names of vLLM's model."""
        self.linears = hf_to_vllm_mapper.apply_dict(self.linears)
        self.attentions = hf_to_vllm_mapper.apply_dict(self.attentions)
        self.shapes = hf_to_vllm_mapper.apply_dict(self.shapes)

    def get_cache_scale_mapper(self) -> Any:  # type: ignore[override]
        """Where tensors of a sink-aware checkpoint go that vLLM's models do not know."""
        centered = [name for name, scheme in self.stored.linears.items() if scheme.center]
        return CheckpointMapper.of(self.stored.final_norm, centered, super().get_cache_scale_mapper())

    def get_quant_method(self, layer: nn.Module, prefix: str) -> QuantizeMethodBase | None:
        """What computes `layer`, whose name is `prefix`."""
        if isinstance(layer, LinearBase):
            scheme = scheme_of(prefix, self.linears, self.packed_modules_mapping)
            return UnquantizedLinearMethod() if scheme is None else _linear(scheme)
        if isinstance(layer, ParallelLMHead):
            scheme = scheme_of(prefix, self.linears, {})
            tied = scheme is None and self.stored.embeddings and not self.stored.untied_head
            return ServedEmbedding() if tied else None if scheme is None else ServedLinear(scheme)
        if isinstance(layer, VocabParallelEmbedding):
            return ServedEmbedding() if self.stored.embeddings else None
        return self._attention(prefix) if isinstance(layer, Attention) else None

    def _attention(self, prefix: str) -> ServedAttention | None:
        name = prefix.removesuffix(".attn")
        if name not in self.attentions:
            if self.stored.prefix_length:
                raise SinkquantError(f"the checkpoint has no prefix for {prefix}: vLLM knows this model differently.")
            return None
        mode = get_current_vllm_config().model_config.tokenizer_mode
        if self.stored.prefix_length and mode not in ("auto", "hf"):
            raise SinkquantError(
                f"tokenizer mode {mode} does not put the prefix in front of prompts: serve with --tokenizer-mode hf."
            )
        index = int(re.findall(r"\d+", name)[-1])
        frequencies = rotary_frequencies(self.hf_config, index) if self.stored.prefix_length else torch.empty(0)
        prefix_length = self.stored.prefix_length
        return ServedAttention(self, self.attentions[name], self.shapes[name], prefix_length, frequencies)


def _linear(scheme: LinearScheme) -> ServedLinear:
    routes = scheme.activation is not None and scheme.activation.route is not None
    if routes and not get_current_vllm_config().model_config.enforce_eager:
        raise SinkquantError("which tokens are routed is known at run time only: serve with --enforce-eager.")
    return ServedLinear(scheme)
