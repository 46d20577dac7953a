"""Attention with a prefix: the rows of the placeholders are overwritten as they go into the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from vllm.logger import init_logger
from vllm.model_executor.layers.attention.attention import get_attention_context
from vllm.model_executor.layers.quantization.kv_cache import BaseKVCacheMethod
from vllm.utils.torch_utils import is_quantized_kv_cache

from sinkquant.errors import SinkquantError
from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.integrations.vllm.keys import plain_keys, shift_keys
from sinkquant.integrations.vllm.rows import put_prefix, token_positions
from sinkquant.quantization.kv import KVGrid
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.kv import balance_shapes, by_head, prefix_shapes

logger = init_logger(__name__)


@dataclass(frozen=True)
class CacheWrite:
    """What a backend's `do_kv_cache_update` becomes: `write` is the backend's own.

    `key`, `value` (P, heads, d): the prefix at positions 0 … P−1; None without a prefix.
    `balance`: the buffers of a balanced cache, by name.
    """

    write: Any
    scheme: KVScheme
    key: Tensor | None
    value: Tensor | None
    balance: dict[str, Tensor]

    def __call__(self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor) -> None:
        """Round the rows to the cache's grid, put the prefix in, and let the backend write."""
        metadata = get_attention_context(layer.layer_name)[0]
        if metadata is not None:  # None while vLLM warms up
            if self.scheme.bits < 16:
                key, value = self.rounded(key, value)
            if self.key is not None and self.value is not None:
                positions = token_positions(len(key), metadata.query_start_loc, metadata.seq_lens)
                key, value = put_prefix(key, self.key, positions), put_prefix(value, self.value, positions)
        self.write(layer, key, value, kv_cache, slot_mapping)

    def rounded(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (T, heads, d) as they come back from our runtime's cache, in the model's own basis."""
        keys, values = key.transpose(0, 1), value.transpose(0, 1)  # (heads, T, d)
        if self.scheme.rotate:
            keys = fast_hadamard(keys)
        if self.scheme.balance:
            keys = by_head(keys[None], self.balance["key_transform"])[0]
        keys = self._grid("key_offset").fake(keys)
        keys = plain_keys(keys, self.scheme, self.balance.get("query_transform"))
        values = self._grid("value_offset").fake(values)
        return keys.transpose(0, 1).contiguous(), values.transpose(0, 1).contiguous()

    def _grid(self, offset: str) -> KVGrid:
        return KVGrid(self.scheme.bits, self.scheme.clip, self.balance.get(offset))


class ServedAttention(BaseKVCacheMethod):
    """Loads prefix and balance of one attention and installs its `CacheWrite`."""

    def __init__(
        self, config: Any, scheme: KVScheme, shape: tuple[int, int, int], prefix: int, frequencies: Tensor
    ) -> None:
        """`shape`: (kv heads, size of a key, of a value); `frequencies`: of rotary embedding, for the prefix's keys."""
        super().__init__(config)
        self.scheme, self.shape, self.prefix, self.frequencies = scheme, shape, prefix, frequencies

    def create_weights(self, layer: nn.Module) -> None:
        """Room for the checkpoint's tensors, filled with NaN until they are loaded."""
        super().create_weights(layer)
        shapes = prefix_shapes(*self.shape, self.prefix)
        if self.scheme.balance:
            shapes |= balance_shapes(*self.shape)
        for name, shape in shapes.items():
            empty = torch.full(shape, torch.nan, dtype=torch.float32)
            layer.register_parameter(name, nn.Parameter(empty, requires_grad=False))

    def process_weights_after_loading(self, layer: Any) -> None:
        """Bring the prefix to positions 0 … P−1 and put it into the backend's cache write."""
        super().process_weights_after_loading(layer)
        self._check(layer)
        found = {n: p.data for n, p in layer.named_parameters(recurse=False)}
        if any(tensor.isnan().any() for tensor in found.values()):
            raise SinkquantError(f"{layer.layer_name} got no prefix from the checkpoint: copy the checkpoint again.")
        key = value = None
        if self.prefix:
            keys = plain_keys(found["sink_key"], self.scheme, found.get("query_transform"))
            key = shift_keys(keys, self.frequencies.to(keys.device), self.prefix).transpose(0, 1).contiguous()
            value = found["sink_value"].transpose(0, 1).contiguous()
        balance = {n: t for n, t in found.items() if n in balance_shapes(*self.shape)}
        layer.impl.do_kv_cache_update = CacheWrite(layer.impl.do_kv_cache_update, self.scheme, key, value, balance)

    def _check(self, layer: Any) -> None:
        name = layer.attn_backend.get_name()
        if layer.attn_backend.forward_includes_kv_cache_update or not hasattr(layer.impl, "do_kv_cache_update"):
            raise SinkquantError(
                f"the attention backend {name} writes its cache where no prefix can be put in: "
                "choose another one with --attention-backend."
            )
        if is_quantized_kv_cache(layer.kv_cache_dtype):
            raise SinkquantError("the prefix is kept in full precision: serve with --kv-cache-dtype auto.")
        if layer.num_kv_heads != self.shape[0]:
            raise SinkquantError("sink-aware checkpoints are not split over devices: use --tensor-parallel-size 1.")
        if self.prefix and layer.sliding_window is not None:
            logger.warning_once("In layers with a sliding window the prefix is seen within the window only.")
