"""Let something stand in for a model's blocks, so that the rest of the model runs without them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from sinkquant.inputs.batches import Batch

Forward = Callable[..., Any]


class StopForward(Exception):
    """Raised once there is what is wanted, so that the rest of a model or of a block is not computed."""


@contextmanager
def stand_ins(model: nn.Module, forwards: Mapping[str, Forward]) -> Iterator[None]:
    """Modules compute what `forwards` says, by name, for the time of the context.

    The modules stay where they are, with their class, attributes and hooks, which models look at.
    """
    modules = {name: model.get_submodule(name) for name in forwards}
    before = {name: module.__dict__.get("forward") for name, module in modules.items()}
    try:
        for name, forward in forwards.items():
            modules[name].__dict__["forward"] = forward
        yield
    finally:
        for name, module in modules.items():
            module.__dict__.pop("forward", None)
            if before[name] is not None:
                module.__dict__["forward"] = before[name]


def call_model(model: nn.Module, batch: Batch) -> Any:
    """The model's outputs for one batch, without a cache of keys and values."""
    device = next(model.parameters()).device
    asked: Any = model if batch.method is None else getattr(model, batch.method)
    return asked(**batch.to(device).arguments, **({} if batch.method else _no_cache(model)))


def _no_cache(model: nn.Module) -> dict[str, bool]:
    """The argument that turns the cache off, for models that have one."""
    takes = inspect.signature(model.forward).parameters
    if "use_cache" in takes:
        return {"use_cache": False}
    config: Any = getattr(model, "config", None)
    handed_on = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
    caches = config is not None and hasattr(config.get_text_config(decoder=True), "use_cache")
    return {"use_cache": False} if handed_on and caches else {}
