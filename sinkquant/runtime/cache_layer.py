"""One layer of a packed cache, in the basis that the attention stage gives keys and values.

`update` hands new keys and values on as `Pending`; the stage rotates or balances them, and only then `write` stores
them. So the cache holds what is quantized, and knows nothing of transforms, prefixes and masks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from sinkquant.errors import UsageError
from sinkquant.models.attention import Pending
from sinkquant.quantization.kv import KVGrid
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.cache_states import States
from sinkquant.runtime.kv import Versions, reach


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
        exact = states.exact.shape[2]
        far, near = reach(states.length, new, self.scheme.recent)
        packed, near = states.pack(far, grid), min(near, exact)
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
