"""A transformers cache that keeps keys and values packed, in the basis that the attention stage gives them.

`update` hands the new keys and values on as `Pending`; the stage rotates or balances them, and only then `write` stores
them. So the cache holds what is quantized, and knows nothing of transforms, prefixes and masks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)
from transformers.modeling_utils import PreTrainedModel

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.models.attention import NAME, STAGES, Pending
from sinkquant.quantization.kv import KVGrid
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.cache_states import States
from sinkquant.runtime.kv import KVStage, Versions


class SinkLayer(CacheLayerMixin):
    """The cache of one attention: all but the `recent` newest tokens packed, with `window` only the last window − 1."""

    is_croppable = True

    def __init__(self, scheme: KVScheme, window: int | None = None) -> None:
        super().__init__()
        self.scheme, self.window, self.is_sliding = scheme, window, window is not None
        self.states: tuple[States, States] | None = None
        self.grids: tuple[KVGrid, KVGrid] | None = None
        self.seen = 0  # tokens written, those that left the window included
        self.record_past = False

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        return sum(states.nbytes for states in self.states or ())

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Stores without tokens, of the right shapes."""
        self.dtype, self.device = key_states.dtype, key_states.device
        bits = self.scheme.bits
        self.states = States.empty(key_states, bits), States.empty(value_states, bits)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """New keys and values (B, Hkv, T, d), to be written by the attention's stage."""
        return Pending(key_states, self), Pending(value_states, self)

    def write(self, key: Tensor, value: Tensor, grids: tuple[KVGrid, KVGrid]) -> tuple[Versions, Versions]:
        """Store transformed keys and values (B, Hkv, T, d); returns what their T queries may see of all tokens."""
        if self.states is None:
            self.lazy_initialization(key, value)
        assert self.states is not None
        self.grids, new = grids, key.shape[2]
        self.seen += new
        grown = self.states[0].append(key), self.states[1].append(value)
        (key_seen, key_kept), (value_seen, value_kept) = (
            self._look(states, new, grid) for states, grid in zip(grown, grids, strict=True)
        )
        self.states = grown
        if not self.record_past:
            self.states = key_kept, value_kept
            self._trim()
        return key_seen, value_seen

    def _look(self, states: States, new: int, grid: KVGrid) -> tuple[Versions, States]:
        """What the `new` last queries may see, and the states in which exactly that is packed."""
        if self.window is not None:
            states = states.cut(states.length - new - self.window + 1, states.length)
        recent, exact = self.scheme.recent, states.exact.shape[2]
        near = min(recent - 1 + new, exact) if recent else 0  # the first of the new queries looks back farthest
        packed = states.pack(states.length - recent, grid)
        return Versions(packed.decode(grid), states.exact[:, :, exact - near :], states.length), packed

    def _trim(self) -> None:
        """Pack all but the recent tokens, and forget what left the window."""
        if self.states is None or self.grids is None:
            return
        key, value = self.states
        if self.window is not None:
            key, value = (x.cut(x.length - self.window + 1, x.length) for x in (key, value))
        packed = key.length - self.scheme.recent
        self.states = key.pack(packed, self.grids[0]), value.pack(packed, self.grids[1])

    def _each(self, change: Any) -> None:
        if self.states is not None:
            self.states = self.states[0].each(change), self.states[1].each(change)

    def get_seq_length(self) -> int:
        """Tokens written so far."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next `query_length` queries meet."""
        past = self.seen if self.window is None else min(self.seen, self.window - 1)
        return past + query_length, self.seen - past

    def get_max_length(self) -> int:
        """The window; −1 without one."""
        return -1 if self.window is None else self.window

    def activate_past_recording(self) -> None:
        """Keep new tokens exact, and those that leave the window, until `crop` settles what stays."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the −`tokens_to_remove` newest tokens.

        Without past recording, what was packed stays packed: the recent tokens become `recent` again as text is added.
        Raises UsageError for a positive number, or if tokens are needed again that left the sliding window.
        """
        if tokens_to_remove > 0:
            raise UsageError(f"crop({tokens_to_remove}): give the number of tokens to remove as a negative number.")
        if self.states is None:
            return
        length, seen = self.states[0].length + tokens_to_remove, max(self.seen + tokens_to_remove, 0)
        if self.window is not None and length < min(seen, self.window - 1):
            raise UsageError("the sliding window has passed: call activate_past_recording() before writing, then crop.")
        self.states = self.states[0].cut(0, max(length, 0)), self.states[1].cut(0, max(length, 0))
        self.seen = seen
        self._trim()

    def reset(self) -> None:
        """Forget everything."""
        self.states, self.seen, self.is_initialized = None, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give row i the tokens of row `beam_idx`[i]."""
        self._each(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        self._each(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only the rows `indices`."""
        self._each(lambda x: x[indices])


class SinkCache(Cache):
    """The cache of a model with quantized keys and values: `model.generate(…, past_key_values=SinkCache(model))`.

    Layers that are not quantized keep the cache that transformers gives them. Raises UsageError if no layer is
    quantized, SinkquantError if a quantized layer needs more than keys and values of its own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        layers = DynamicCache(config=model.config).layers
        schemes = {
            module.layer_idx: stage.scheme
            for module in model.modules()
            for stage in getattr(module, STAGES, ())
            if isinstance(stage, KVStage) and stage.scheme.bits < 16
        }
        if not schemes:
            raise UsageError("the model has no quantized keys and values: leave out the cache, transformers makes one.")
        if model.config.get_text_config(decoder=True)._attn_implementation != NAME:
            raise UsageError(f"the model runs without its stages: call model.set_attn_implementation({NAME!r}) first.")
        for index, scheme in schemes.items():
            layers[index] = packed_layer(layers[index], scheme)  # type: ignore[index]
        super().__init__(layers=layers)

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is stored."""
        plain = (x for layer in self.layers for x in (layer.keys, layer.values) if isinstance(x, Tensor))  # type: ignore[union-attr]
        return sum(x.nbytes for x in plain) + sum(x.nbytes for x in self.layers if isinstance(x, SinkLayer))


def packed_layer(layer: object, scheme: KVScheme) -> SinkLayer:
    """The packed counterpart of a layer that transformers made."""
    if type(layer) is DynamicLayer:
        return SinkLayer(scheme)
    if type(layer) is DynamicSlidingWindowLayer:
        return SinkLayer(scheme, layer.sliding_window)
    raise SinkquantError(f"a {type(layer).__name__} cannot be packed: leave out the cache, transformers makes one.")
