"""Run a traced model again with changes that ought to cancel, and see in which blocks they do.

Every block gets the stream that it got in the trace, and gives what it gave there to those who read it elsewhere, so
one pass tells of all blocks, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.models.attention import AttentionCall, taps
from sinkquant.models.record import Trace, run_probe
from sinkquant.models.roles import Block
from sinkquant.models.stubs import Forward, stand_ins

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Changes:
    """What is done to the inputs and to the outputs of modules, by their names."""

    inputs: Mapping[str, Change] = field(default_factory=dict)
    outputs: Mapping[str, Change] = field(default_factory=dict)


class Replay:
    """A traced model and its blocks."""

    def __init__(self, model: nn.Module, trace: Trace, blocks: tuple[Block, ...]) -> None:
        self.model, self.trace, self.blocks = model, trace, blocks

    def cancels(self, changes: Mapping[str, Changes]) -> frozenset[str]:
        """The blocks, of those with `changes` by block name, whose output stays what it was.

        None of them where what one block does is seen in another.
        """
        if not changes:
            return frozenset()
        everything = {block.name for block in self.blocks}
        same = self._unchanged(changes)
        held = frozenset(same & set(changes))
        if len(same) == len(everything) or not held:
            return held
        alone = self._unchanged({name: changes[name] for name in held})
        return held if len(alone) == len(everything) else frozenset()

    def calls(self, changes: Mapping[str, Changes]) -> dict[str, AttentionCall]:
        """The attention calls with `changes`, by module name."""
        names = {self.model.get_submodule(name): name for name in self.trace.calls}
        found: dict[str, AttentionCall] = {}

        def tap(module: nn.Module, call: AttentionCall) -> AttentionCall:
            found[names[module]] = call
            return call

        with taps(list(names), tap):
            self._run(changes, lambda *_: None)
        return found

    def causal(self, rows: Callable[[Block, Tensor], Tensor]) -> frozenset[str]:
        """The blocks whose output stays the same in the `rows` (…, D) of each where the other rows of its input change,
        as views of a stream (…, D)."""
        same = set[str]()

        def compare(block: Block, output: Any) -> None:
            event = self.trace.of(block.name)
            before, taken = block.stream.given(event.result), block.stream.taken(event.arguments)
            if _close(rows(block, block.stream.given(output)), rows(block, before), rows(block, taken)):
                same.add(block.name)

        def change(block: Block, hidden: Tensor) -> Tensor:
            changed = hidden.flip(-1) + 1
            rows(block, changed).copy_(rows(block, hidden))
            return changed

        self._run({}, compare, change)
        return frozenset(same)

    def _unchanged(self, changes: Mapping[str, Changes]) -> set[str]:
        same: set[str] = set()

        def compare(block: Block, output: Any) -> None:
            event = self.trace.of(block.name)
            before, taken = block.stream.given(event.result), block.stream.taken(event.arguments)
            if _close(block.stream.given(output), before, taken):
                same.add(block.name)

        self._run(changes, compare)
        return same

    def _run(
        self,
        changes: Mapping[str, Changes],
        look: Callable[[Block, Any], None],
        other: Callable[[Block, Tensor], Tensor] = lambda _, hidden: hidden,
    ) -> None:
        with ExitStack() as stack:
            stack.enter_context(recorded(self.model, self.trace, untouched(self.trace, self.blocks, changes.values())))
            for block in self.blocks:
                module = self.model.get_submodule(block.name)
                hidden = other(block, block.stream.taken(self.trace.of(block.name).arguments))

                def give(_: Any, args: Any, kwargs: Any, block: Block = block, hidden: Tensor = hidden) -> Any:
                    return block.stream.call((args, kwargs), hidden)

                def keep(_: Any, args: Any, output: Any, block: Block = block) -> Any:
                    look(block, output)
                    return self.trace.of(block.name).result

                stack.callback(module.register_forward_pre_hook(give, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(keep).remove)
            for change in changes.values():
                stack.enter_context(applied(self.model, change))
            run_probe(self.model, self.trace.probe, own=self.trace.own)


def untouched(trace: Trace, blocks: Iterable[Block], changes: Iterable[Changes]) -> list[Block]:
    """The blocks that are through before any changed module runs: an encoder's, where decoders are changed."""
    changed = {name for change in changes for name in (*change.inputs, *change.outputs)}
    names = [event.name for event in trace.events]
    first = next((place for place, name in enumerate(names) if name in changed), 0)
    through = set(names[:first]) - set(names[first:])
    return [block for block in blocks if block.name in through]


@contextmanager
def recorded(model: nn.Module, trace: Trace, blocks: Iterable[Block]) -> Iterator[None]:
    """The blocks give what they gave in the trace, without being computed."""

    def given(block: Block) -> Forward:
        return lambda *_, **__: trace.of(block.name).result

    with stand_ins(model, {block.name: given(block) for block in blocks}):
        yield


def applied(model: nn.Module, changes: Changes) -> ExitStack:
    """A context in which the modules are changed by hooks; weights stay as they are."""
    stack = ExitStack()
    for name, change in changes.inputs.items():

        def before(_: Any, args: Any, kwargs: Any, change: Change = change) -> Any:
            if args:
                return (change(args[0]), *args[1:]), kwargs
            first = next(iter(kwargs))
            return args, {**kwargs, first: change(kwargs[first])}

        hook = model.get_submodule(name).register_forward_pre_hook(before, with_kwargs=True)
        stack.callback(hook.remove)
    for name, change in changes.outputs.items():

        def after(_: Any, args: Any, output: Any, change: Change = change) -> Any:
            return change(output)

        stack.callback(model.get_submodule(name).register_forward_hook(after).remove)
    return stack


def _close(after: Tensor, before: Tensor, taken: Tensor) -> bool:
    """Equal but for rounding, token by token and measured by what the block adds, as sinks make the stream large."""
    if after.shape != before.shape:
        return False
    coarse = before.dtype in (torch.bfloat16, torch.float16)
    a, b = after.double(), before.double()
    added = (b - taken.double()).norm(dim=-1) if taken.shape == before.shape else b.norm(dim=-1)
    allowed = (5e-2 if coarse else 1e-3) * added + (1e-2 if coarse else 1e-5) * b.norm(dim=-1)
    return bool(((a - b).norm(dim=-1) <= allowed).all())
