"""One attention function for every model, with taps that see or change queries, keys and values before the kernel.

transformers calls a registered attention function with queries and keys after rotary embedding and after the cache
update, which is the one place where a prefix, an online rotation and a quantized cache look the same for all models.
A *tap* is a callable put on an attention module: `tap(module, call) -> call`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention, softmax
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.masking_utils import sdpa_mask

from sinkquant.errors import SinkquantError

NAME = "sinkquant"
TAPS = "attention_taps"  # attribute of an attention module: tuple of taps, applied in order
RAN = "attention_ran"  # attribute of a module with taps: this function has been called for it
HEEDED = frozenset({"softcap", "s_aux", "is_causal", "output_attentions", "position_bias"})
# Known to change nothing here: mask, queries and keys hold it already, or it is meant for other parts.
SETTLED = frozenset({
    "sliding_window", "position_ids", "position_embeddings", "cache_position", "seq_idx", "deterministic", "use_cache",
    "output_hidden_states", "output_router_logits", "return_dict", "num_items_in_batch", "logits_to_keep",
})  # fmt: skip


@dataclass(frozen=True)
class AttentionCall:
    """What a tap receives. `mask` is boolean (True = visible) or additive; without one a query sees every key, or, if
    the attention is `causal`, those up to its own."""

    query: Tensor  # (B, H, T, d)
    key: Tensor  # (B, Hkv, S, d), rotary embedding applied, past keys included
    value: Tensor  # (B, Hkv, S, dv)
    mask: Tensor | None  # (B, 1 or H, T, S)
    scaling: float | None = None  # of the logits; None: 1/√d
    softcap: float | None = None  # logits become c·tanh(logits / c)
    sink_logits: Tensor | None = None  # (H,), extra terms of the softmax's denominator
    cache: Any = None  # a cache layer that waits for `key` and `value`, then the new tokens alone; a tap writes them
    prefix: int = 0  # without a mask: that many keys come first and are visible to every query
    causal: bool = True

    @property
    def implied(self) -> bool:
        """Whether the causal mask is implied; a single query sees all keys, as they come before it."""
        return self.causal and self.mask is None and self.query.shape[2] > 1

    def only_text(self) -> AttentionCall:
        """The same without keys behind the text: a pre-allocated cache goes on there, which no implied mask tells."""
        if not self.implied:
            return self
        keys = self.prefix + self.query.shape[2]
        return replace(self, key=self.key[:, :, :keys], value=self.value[:, :, :keys])

    def explicit(self) -> AttentionCall:
        """The same call with a mask in place of the implied one, so that columns can be added to it."""
        if self.mask is not None:
            return self
        length = self.query.shape[2]
        if not self.implied:
            visible = torch.ones(1, 1, length, self.key.shape[2], dtype=torch.bool, device=self.key.device)
            return replace(self, mask=visible, prefix=0)
        causal = torch.ones(length, self.prefix + length, dtype=torch.bool, device=self.key.device).tril(self.prefix)
        return replace(self.only_text(), mask=causal[None, None], prefix=0)

    def biased(self, bias: Tensor | None) -> AttentionCall:
        """The same call with `bias` (1 or B, H, T, S) added to the logits: distances that are learned (T5)."""
        if bias is None:
            return self
        call = self.explicit()
        assert call.mask is not None
        hidden = torch.finfo(bias.dtype).min
        mask = torch.where(call.mask, bias, hidden) if call.mask.dtype == torch.bool else bias + call.mask
        return replace(call, mask=mask)


@dataclass(frozen=True)
class Pending:
    """New keys or values (B, Hkv, T, d) that `layer` of a cache stores once a tap has transformed them."""

    states: Tensor
    layer: Any


Tap = Callable[[nn.Module, AttentionCall], AttentionCall]


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor | Pending,
    value: Tensor | Pending,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The function registered with transformers. Returns ((B, T, H, dv), weights or None).

    Raises SinkquantError for an argument that it does not know: leaving it out would be another attention.
    """
    for name, argument in kwargs.items():
        if argument is not None and name not in HEEDED and name not in SETTLED:
            raise SinkquantError(
                f"{type(module).__name__} gives its attention {name!r}, which sinkquant cannot compute: "
                "this architecture, or this way to run it, is not supported."
            )
    softcap, sink_logits = kwargs.get("softcap"), kwargs.get("s_aux")
    cache = None
    if isinstance(key, Pending) and isinstance(value, Pending):
        cache, key, value = key.layer, key.states, value.states
    assert isinstance(key, Tensor)
    assert isinstance(value, Tensor)
    is_causal = kwargs.get("is_causal")
    causal = bool(is_causal if is_causal is not None else getattr(module, "is_causal", True))
    call = AttentionCall(query, key, value, attention_mask, scaling, softcap, sink_logits, cache, causal=causal)
    call = call.biased(kwargs.get("position_bias"))
    applied = getattr(module, TAPS, ())
    for tap in applied:
        call = tap(module, call)
    if applied and not getattr(module, RAN, False):
        setattr(module, RAN, True)
    if call.cache is not None:
        raise SinkquantError("the cache belongs to another model: make a SinkCache of the model that runs.")
    if softcap is None and sink_logits is None and not kwargs.get("output_attentions"):
        return attended(call, dropout), None
    return _explicit(call)


def attended(call: AttentionCall, dropout: float = 0.0) -> Tensor:
    """What the attention gives, (B, T, H, dv), by torch's fused kernels; without softcap and sink logits."""
    implied = call.implied
    if implied and call.key.shape[2] != call.query.shape[2] + call.prefix:
        call, implied = call.explicit(), False
    # Queries of the prefix, whose outputs are dropped, make it a square, which kernels compute without a mask.
    extra = call.prefix if implied else 0
    output = scaled_dot_product_attention(
        pad(call.query, (0, 0, extra, 0)) if extra else call.query,
        call.key,
        call.value,
        attn_mask=call.mask,
        dropout_p=dropout,
        scale=call.scaling,
        is_causal=implied,
        enable_gqa=call.query.shape[1] != call.key.shape[1],
    )  # (B, H, T, dv)
    return output[:, :, extra:].transpose(1, 2).contiguous()


def attention_weights(call: AttentionCall) -> Tensor:
    """Softmax weights (B, H, T, S) in float32; with sink logits the rows sum to less than one."""
    call = call.explicit()
    repeats = call.query.shape[1] // call.key.shape[1]
    key = call.key.repeat_interleave(repeats, dim=1).float()
    scale = call.scaling if call.scaling is not None else call.query.shape[-1] ** -0.5
    logits = call.query.float() @ key.transpose(2, 3) * scale  # (B, H, T, S)
    if call.softcap is not None:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    mask = call.mask
    assert mask is not None
    logits = logits.masked_fill(~mask, torch.finfo(torch.float32).min) if mask.dtype == torch.bool else logits + mask
    if call.sink_logits is None:
        return softmax(logits, dim=-1)
    extra = call.sink_logits.float().reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
    return softmax(torch.cat([logits, extra], dim=-1), dim=-1)[..., :-1]


def _explicit(call: AttentionCall) -> tuple[Tensor, Tensor]:
    weights = attention_weights(call).to(call.value.dtype)
    value = call.explicit().value.repeat_interleave(call.query.shape[1] // call.key.shape[1], dim=1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def insist(module: nn.Module) -> None:
    """Let an attention module fail where it computes without this function, and so without what its taps do."""
    if not hasattr(module, RAN):
        setattr(module, RAN, False)
        module.register_forward_hook(_check_it_ran)


def _check_it_ran(module: nn.Module, args: Any, output: Any) -> None:
    chosen = getattr(getattr(module, "config", None), "_attn_implementation", NAME)
    if chosen != NAME or not getattr(module, RAN):
        raise SinkquantError(
            f"{type(module).__name__} computed its attention by {chosen!r} of transformers {transformers.__version__}, "
            f"without prefix, rotations and cache of the checkpoint: keep the implementation {NAME!r} "
            "(model.set_attn_implementation), and use a model class that follows it."
        )


def register() -> None:
    """Make the function known to transformers under its own name; nothing that exists is replaced."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)  # without it causal models would run unmasked, in silence


@contextmanager
def taps(modules: list[nn.Module], tap: Tap) -> Iterator[None]:
    """Put `tap` behind the taps that the modules have, for the time of the context."""
    before = [getattr(module, TAPS, ()) for module in modules]
    try:
        for module, present in zip(modules, before, strict=True):
            setattr(module, TAPS, (*present, tap))
        yield
    finally:
        for module, present in zip(modules, before, strict=True):
            setattr(module, TAPS, present)


def implementations(config: Any) -> dict[str, str]:
    """The attention of a model and of its parts, as `set_attn_implementation` takes it; they need not be the same.

    Parts of a configuration that no model is made of have none.
    """
    parts = {"": config} | {name: getattr(config, name, None) for name in config.sub_configs}
    own = {name: part._attn_implementation for name, part in parts.items() if isinstance(part, PreTrainedConfig)}
    return {name: chosen for name, chosen in own.items() if chosen is not None}


@contextmanager
def own_attention(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Run `model` through this attention function for the time of the context; unless it is not `wanted`."""
    if not wanted:
        yield
        return
    register()
    before = implementations(model.config)
    model.set_attn_implementation(NAME)  # type: ignore[operator]
    try:
        yield
    finally:
        model.set_attn_implementation(before)  # type: ignore[operator]
