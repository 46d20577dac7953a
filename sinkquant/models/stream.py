"""Where a block takes the residual stream from, and where it gives it back: blocks of all families, called alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional, by name


@dataclass(frozen=True)
class Stream:
    """`argument`: its position or its name. `result`: its index and the number of outputs; None: the block returns it
    bare. `carries`: what else goes from block to block unchanged, as (index of the output, argument), which the first
    block makes whatever the stream is: the bias of distances (T5)."""

    argument: int | str = 0
    result: tuple[int, int] | None = None
    carries: tuple[tuple[int, int | str], ...] = ()

    def taken(self, arguments: Arguments) -> Tensor:
        """The stream among a block's arguments."""
        args, kwargs = arguments
        taken: Tensor = args[self.argument] if isinstance(self.argument, int) else kwargs[self.argument]
        return taken

    def call(self, arguments: Arguments, hidden: Tensor | None) -> Arguments:
        """The arguments with `hidden` in the stream's place."""
        args, kwargs = arguments
        if isinstance(self.argument, int):
            return (*args[: self.argument], hidden, *args[self.argument + 1 :]), kwargs
        return args, {**kwargs, self.argument: hidden}

    def given(self, output: Any) -> Tensor:
        """The stream among a block's outputs."""
        given: Tensor = output if self.result is None else output[self.result[0]]
        return given

    def output(self, hidden: Tensor, carried: Mapping[int, Any] = MappingProxyType({})) -> Any:
        """What a block returns that gives `hidden` and what is `carried`, by index, in the structure that its model
        expects."""
        if self.result is None:
            return hidden
        index, count = self.result
        return tuple(hidden if i == index else carried.get(i) for i in range(count))

    def carried(self, arguments: Arguments) -> dict[int, Any] | None:
        """What the block hands on unchanged of its arguments, by index of the output; None if it is to make it."""
        found = {index: at(arguments, place) for index, place in self.carries}
        return found if all(value is not None for value in found.values()) else None

    def made(self, output: Any) -> dict[int, Any]:
        """The same, of what the block returned."""
        return {index: output[index] for index, _ in self.carries}


def at(arguments: Arguments, place: int | str) -> Any:
    """One argument of a block; None if it is not given."""
    args, kwargs = arguments
    return kwargs.get(place) if isinstance(place, str) else args[place] if place < len(args) else None


def by_token(hidden: Tensor, batch: int, tokens: int) -> Tensor:
    """A stream as (batch, tokens, channels); several streams side by side, in front of or behind those axes, are the
    channels of one."""
    if hidden.shape[-3:-1] == (batch, tokens):
        return hidden.movedim((-3, -2), (0, 1)).flatten(2)
    return hidden.flatten(2)


def is_by_token(hidden: Tensor, batch: int, tokens: int) -> bool:
    """Whether `by_token` knows the axes of a stream."""
    return (batch, tokens) in (hidden.shape[:2], hidden.shape[-3:-1])


def link(output: Any, arguments: Arguments) -> Stream | None:
    """How the stream goes from a block with `output` to one called with `arguments`; None if it does not."""
    outputs = [output] if isinstance(output, Tensor) else list(output) if isinstance(output, tuple | list) else []
    args, kwargs = arguments
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for index, made in enumerate(outputs):
        if isinstance(made, Tensor) and made.is_floating_point():
            argument = next((place for place, value in places if value is made), None)
            if argument is not None:
                return Stream(argument, None if isinstance(output, Tensor) else (index, len(outputs)))
    return None


def carries(output: Any, arguments: Arguments, stream: Stream) -> tuple[tuple[int, int | str], ...]:
    """What goes beside the stream from a block's `output` into the next one's `arguments`, as in `Stream.carries`."""
    if stream.result is None:
        return ()
    args, kwargs = arguments
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    others = [(i, x) for i, x in enumerate(output) if i != stream.result[0] and isinstance(x, Tensor)]
    return tuple((i, place) for i, x in others for place, value in places if value is x)
