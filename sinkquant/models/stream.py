"""Where a block takes the residual stream from, and where it gives it back: blocks of all families, called alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional, by name


@dataclass(frozen=True)
class Stream:
    """`argument`: its position or its name. `result`: its index and the number of outputs; None: the block returns it
    bare."""

    argument: int | str = 0
    result: tuple[int, int] | None = None

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

    def output(self, hidden: Tensor) -> Any:
        """What a block returns that gives `hidden` and nothing else, in the structure that its model expects."""
        if self.result is None:
            return hidden
        index, count = self.result
        return tuple(hidden if i == index else None for i in range(count))


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


def carried(output: Any, arguments: Arguments, stream: Stream) -> bool:
    """Whether something beside the stream goes from a block's `output` into the next one's `arguments`."""
    if stream.result is None:
        return False
    args, kwargs = arguments
    others = [x for i, x in enumerate(output) if i != stream.result[0] and isinstance(x, Tensor)]
    return any(value is x for x in others for value in (*args, *kwargs.values()))
