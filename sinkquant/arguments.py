"""Arguments of the public functions against their annotations, before any work: a wrong type is one sentence."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from sinkquant.errors import UsageError

if TYPE_CHECKING:  # `inspect` is at hand without it
    import torch

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """`function` with arguments of the annotated types only; UsageError names the first that is of another.

    Missing and unknown arguments remain Python's TypeError. Values are passed on as they are.
    """
    signature = inspect.signature(function)
    hints = functools.cache(lambda: typing.get_type_hints(function))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if not _fits(value, hints()[name]):
                wanted = signature.parameters[name].annotation  # as it is written
                raise UsageError(f"{function.__name__}: {name} is {_show(value)} but must be {_words(wanted)}.")
        return function(*args, **kwargs)

    return typing.cast(F, call)


def float_dtype(dtype: torch.dtype | str) -> None:
    """Raise UsageError for what is neither "auto" nor a type that torch computes in."""
    import torch

    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype != "auto" and found not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise UsageError(f"dtype is {dtype} but must be auto, float32, bfloat16 or float16.")


def known_devices(device_map: Any) -> None:
    """Raise UsageError for a device that torch does not know or does not find here."""
    import torch

    for place in device_map.values() if isinstance(device_map, dict) else [device_map]:
        if place is None or place in ("auto", "balanced", "balanced_low_0", "sequential", "disk"):
            continue
        try:
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            raise UsageError(
                f"device_map asks for {place!r}, which torch does not find here: name another device, such as cpu, "
                "or auto."
            ) from error


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:  # which of them is a question for the function, which offers the nearest
        return isinstance(value, type(parts[0]))
    if origin is Sequence:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(v, parts[0]) for v in value)
    if origin is Callable or hint is Callable:
        return callable(value)
    if hint is int and isinstance(value, bool):
        return False
    kinds = {Path: os.PathLike, int: Integral, float: Real}
    return isinstance(value, kinds.get(hint, hint))


def _show(value: Any) -> str:
    text = repr(value) if isinstance(value, str | bytes | int | float | NoneType | list | tuple | dict) else ""
    return text if 0 < len(text) <= 60 and "\n" not in text else f"of type {type(value).__name__}"


def _words(annotation: str) -> str:
    """An annotation in the words of a message."""
    if annotation.startswith(("Callable", "Progress")):
        return "a function or None"
    return annotation.replace(" | ", " or ")
