"""Keys and values where they are cached, of attentions that do not go through transformers' attention interface.

Such an attention hands new keys and values to the `update` of its cache and goes on with what that returns: the second
place where those of all models look the same. Which module does so, and with which argument, is seen in a pass with a
cache; that nothing else is read is tried out.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import Cache, DynamicLayer

from sinkquant.models.attention import own_attention
from sinkquant.models.experts import everyone
from sinkquant.models.record import Trace, first_tensor
from sinkquant.models.roles import Cached
from sinkquant.models.stream import Arguments

Change = Callable[[Any, Any], tuple[Tensor, Tensor]]
UNSEEN = "the attention of this architecture is not computed through transformers' attention interface"
NONE_KEPT = "no block of this architecture hands keys and values to a cache"
UNUSED = f"{UNSEEN}, and does not simply go on with the keys and values that a cache returns"


class CacheView(Cache):
    """A cache as one attention sees it: `update` returns what `change` makes of the keys and values that it returned.

    All else is the cache's own.
    """

    def __init__(self, cache: Cache, change: Change) -> None:
        self.viewed, self.change = cache, change  # layers and all that the base class would make are those of `cache`

    def __getattr__(self, name: str) -> Any:
        if name == "viewed":  # while a copy is made
            raise AttributeError(name)
        return getattr(self.viewed, name)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Keys and values (B, Hkv, S, d), past ones included."""
        return self.change(*self.viewed.update(key_states, value_states, layer_idx, *args, **kwargs))


def with_view(module: nn.Module, argument: str, arguments: Arguments, change: Change, config: Any) -> Arguments:
    """The arguments of a call of `module` with a view of its cache; of an empty one of `config` where it gets none."""
    bound = inspect.signature(module.forward).bind(*arguments[0], **arguments[1])
    cache = bound.arguments.get(argument)
    if isinstance(cache, EncoderDecoderCache):  # that of a decoder alone
        view: Cache = copy(cache)
        view.self_attention_cache = CacheView(cache.self_attention_cache, change)  # type: ignore[attr-defined]
    else:
        view = CacheView(_grows(DynamicCache(config=config)) if cache is None else cache, change)
    bound.arguments[argument] = view
    return bound.args, bound.kwargs


def _grows(cache: DynamicCache) -> DynamicCache:
    """The same cache, which makes layers that the configuration does not count: it may count those of an encoder."""
    cache.layer_class_to_replicate = DynamicLayer
    return cache


def find_cached(model: Any, trace: Trace) -> tuple[tuple[Cached, ...], str | None]:
    """The attentions whose keys and values are what a cache returns; or none, and why."""
    if trace.probe.method is not None or getattr(model.config, "is_encoder_decoder", False):
        return (), UNSEEN  # keys of cross attention are read where they are kept
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return (), NONE_KEPT
    recorder = _record(model, trace)
    if not recorder.found:
        return (), NONE_KEPT
    layers = Counter(cached.layer for cached in recorder.found)
    found = tuple(cached for cached in recorder.found if layers[cached.layer] == 1 and _holds(model, trace, cached))
    return found, None if found else UNUSED


class _Recorder(DynamicCache):
    """Notes who calls `update` while a module is running."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        _grows(self)
        self.running: list[tuple[str, nn.Module, Arguments]] = []
        self.found: list[Cached] = []

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        name, module, (given, named) = self.running[-1]
        arguments = inspect.signature(module.forward).bind(*given, **named).arguments
        argument = next((key for key, value in arguments.items() if value is self), None)
        if argument is not None and key_states.dim() == value_states.dim() == 4:
            self.found.append(Cached(name, argument, layer_idx))
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def _record(model: Any, trace: Trace) -> _Recorder:
    """One pass with a cache; models that take none have noted nothing."""
    recorder = _Recorder(model.config)
    with torch.no_grad(), _watched(model, recorder.running):
        try:
            model(**trace.probe.to(next(model.parameters()).device).tensors, past_key_values=recorder, use_cache=True)
        except Exception:  # whatever a model's code raises that wants another cache
            recorder.found.clear()
    return recorder


@contextmanager
def _watched(model: nn.Module, running: list[tuple[str, nn.Module, Arguments]]) -> Iterator[None]:
    """Keeps the modules under way in `running`, the innermost last."""
    names = {module: name for name, module in model.named_modules()}

    def begin(module: nn.Module, args: tuple, kwargs: dict) -> None:
        running.append((names[module], module, (args, kwargs)))

    def end(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    hooks = [module.register_forward_pre_hook(begin, with_kwargs=True) for module in names]
    hooks += [module.register_forward_hook(end, always_call=True) for module in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _holds(model: nn.Module, trace: Trace, cached: Cached) -> bool:
    """Whether the module gives with a cache what it gives without, and something else with other keys or values."""
    module = model.get_submodule(cached.module)
    event = next((event for event in trace.events if event.module is module), None)
    if event is None:
        return False
    one = False

    def plain(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal one
        one = torch.equal(key, value) if key.shape == value.shape else False
        return key, value

    def gives(change: Change) -> bool:
        args, kwargs = with_view(module, cached.argument, event.arguments, change, model.config)
        given = first_tensor(module(*args, **kwargs))
        return given is not None and _close(given, event.output)

    with torch.no_grad(), own_attention(model, trace.own), everyone(model):
        if not gives(plain) or gives(lambda key, value: (key.flip(-1), value)):
            return False
        return one or not gives(lambda key, value: (key, value.flip(-1)))  # keys that are values too are read as either


def _close(a: Tensor, b: Tensor) -> bool:
    coarse = b.dtype in (torch.bfloat16, torch.float16)
    return a.shape == b.shape and bool((a - b).abs().max() <= (5e-2 if coarse else 1e-4) * b.abs().max())
