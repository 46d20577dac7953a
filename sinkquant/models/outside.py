"""What happens outside of the blocks: what writes the streams, what stacks read of each other and who reads them.

Blocks are replaced by what they gave in the trace, as if those were constants of their own, so that gradients tell
which of them, and which weights, have a part in something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from sinkquant.errors import SinkquantError
from sinkquant.models.attention import own_attention
from sinkquant.models.record import Trace, first_tensor
from sinkquant.models.stacks import Chain
from sinkquant.models.stream import Arguments
from sinkquant.models.stubs import Forward, call_model, stand_ins

Place = int | str  # of an argument: its position or its name


@dataclass(frozen=True)
class Outside:
    """Of one stack. `gives`: blocks whose output something behind it reads. `reads`: stacks that an argument of the
    blocks beside the stream comes from. `embeddings`: modules and parameters that write the stream in front of it;
    `closed`: nothing else does. `upstream`: parameters that have a part in it."""

    gives: tuple[str, ...]
    reads: Mapping[Place, tuple[str, ...]]
    embeddings: tuple[str, ...]
    closed: bool
    upstream: frozenset[str] = frozenset()


def look_outside(model: nn.Module, trace: Trace, stacks: Mapping[str, Chain]) -> dict[str, Outside]:
    """What is around every stack, by its name."""
    weights = _weights(model, stacks)
    with _wanting(weights.values()), torch.enable_grad():
        seen = _run(model, trace, stacks, gradients=True)
        ends = [t for t in tree_leaves(seen.output) if isinstance(t, Tensor) and t.requires_grad]
        found = {}
        for name, chain in stacks.items():
            beside = {place: [t for t in tensors if t.requires_grad] for place, tensors in seen.beside[name].items()}
            others = [t for stack in stacks if stack != name for t in seen.entered(stack)]
            gives = _reached([*ends, *others], {block: seen.given[block] for block in chain})
            reads = {
                place: tuple(
                    stack for stack, one in stacks.items() if _reached(tensors, {b: seen.given[b] for b in one})
                )
                for place, tensors in beside.items()
            }
            upstream = {weight: weights[weight] for weight in _reached([seen.taken[name]], weights)}
            found[name] = gives, {p: r for p, r in reads.items() if r}, upstream
    made = {}
    for name, (gives, reads, upstream) in found.items():
        entrances, closed = _entrances(model, trace, stacks, name, upstream)
        made[name] = Outside(tuple(gives), reads, entrances, closed, frozenset(upstream))
    return made


@dataclass
class _Seen:
    """One pass without blocks."""

    output: Any = None
    taken: dict[str, Tensor] = field(default_factory=dict)  # by stack: what its first block is given
    beside: dict[str, dict[Place, list[Tensor]]] = field(default_factory=dict)  # by stack: its blocks' other arguments
    given: dict[str, Tensor] = field(default_factory=dict)  # by block

    def entered(self, stack: str) -> list[Tensor]:
        """All that the blocks of a stack are given from outside, as far as weights or blocks have a part in it."""
        tensors = [self.taken[stack], *(t for tensors in self.beside[stack].values() for t in tensors)]
        return [t for t in tensors if t.requires_grad]


def _run(model: nn.Module, trace: Trace, stacks: Mapping[str, Chain], *, gradients: bool) -> _Seen:
    seen = _Seen()
    forwards: dict[str, Forward] = {}
    for name, chain in stacks.items():
        seen.beside[name] = {}
        for block, stream in chain.items():
            event = trace.of(block)
            seen.given[block] = stream.given(event.result).detach().clone().requires_grad_(gradients)

            def forward(
                *args: Any,
                name: str = name,
                block: str = block,
                chain: Chain = chain,
                event: Any = event,
                **kwargs: Any,
            ) -> Any:
                stream, given = chain[block], (args, kwargs)
                if block == next(iter(chain)):
                    seen.taken[name] = stream.taken(given)
                for place, value in _beside(stream.call(given, None)):
                    seen.beside[name].setdefault(place, []).append(value)
                return stream.output(seen.given[block], stream.made(event.result) if stream.carries else {})

            forwards[block] = forward
    with stand_ins(model, forwards), own_attention(model, trace.own):
        try:
            seen.output = call_model(model, trace.probe)
        except Exception as error:  # whatever a model's code raises that misses an output
            raise SinkquantError(
                f"{type(model).__name__} reads more of its blocks than the residual stream, which is not supported yet."
            ) from error
    return seen


def _beside(arguments: Arguments) -> Iterator[tuple[Place, Tensor]]:
    args, kwargs = arguments
    places: list[tuple[Place, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        tensor = first_tensor(value)
        if tensor is not None and tensor.is_floating_point():
            yield place, tensor


def _reached(ends: Iterable[Tensor], parts: Mapping[str, Tensor]) -> list[str]:
    """Names of the `parts` that have a part in one of `ends`, by the graph that autograd keeps."""
    ends = list(ends)
    todo, seen, leaves = [t.grad_fn for t in ends], set[Any](), {id(t) for t in ends}
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaves.add(id(getattr(node, "variable", None)))
        todo.extend(following for following, _ in node.next_functions)
    return [name for name, part in parts.items() if id(part) in leaves]


def _weights(model: nn.Module, stacks: Mapping[str, Chain]) -> dict[str, nn.Parameter]:
    """Parameters outside of the blocks."""
    inside = tuple(f"{name}." for name in stacks)
    return {n: p for n, p in model.named_parameters() if not n.startswith(inside) and p.is_floating_point()}


@contextmanager
def _wanting(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Parameters have gradients for the time of the context."""
    before = [(weight, weight.requires_grad) for weight in weights]
    try:
        for weight, _ in before:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, wanted in before:
            weight.requires_grad_(wanted)


@dataclass(frozen=True)
class _Writer:
    """A module, or a parameter of its own, and the axis of its channels."""

    name: str
    axis: int


def _writers(model: nn.Module, trace: Trace, upstream: Mapping[str, Tensor], width: int) -> list[_Writer]:
    """What may write a stream of `width` channels, of the weights that have a part in it, whoever shares them."""
    wanted, ran = {id(weight) for weight in upstream.values()}, {event.name for event in trace.events}
    found, owned = list[_Writer](), set[int]()
    for name, module in model.named_modules():
        own = {id(parameter) for parameter in module.parameters(recurse=False)}
        if isinstance(module, nn.Linear | nn.Embedding | _ConvNd):
            owned |= own
            axis = 1 if isinstance(module, _ConvNd) else -1
            if own & wanted and name in ran and trace.of(name).output.shape[axis] == width:
                found.append(_Writer(name, axis))
    bare = {n: w for n, w in upstream.items() if id(w) not in owned and w.dim() > 1 and w.shape[-1] == width}
    return [*found, *(_Writer(name, -1) for name in bare)]


@contextmanager
def _changed(model: nn.Module, writers: Iterable[_Writer], change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """What `writers` write is changed along its channels, by hooks where a module writes it."""
    modules = dict(model.named_modules())
    with ExitStack() as undo:
        for writer in writers:
            if writer.name in modules:

                def after(_: Any, args: Any, output: Tensor, axis: int = writer.axis) -> Tensor:
                    return change(output.movedim(axis, -1)).movedim(-1, axis)

                undo.callback(modules[writer.name].register_forward_hook(after).remove)
            else:
                parameter = model.get_parameter(writer.name)
                undo.callback(parameter.data.copy_, parameter.detach().clone())
                parameter.data.copy_(change(parameter.detach()))
        yield


def _entrances(
    model: nn.Module, trace: Trace, stacks: Mapping[str, Chain], name: str, upstream: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], bool]:
    """What writes the stream in front of a stack, and whether that is all.

    A writer that is changed along one direction changes the stream along that direction and nowhere else. Where all
    are mirrored, so is the stream.
    """
    block, stream = next(iter(stacks[name].items()))
    plain = stream.taken(trace.of(block).arguments).double()
    generator = torch.Generator().manual_seed(0)
    v = torch.nn.functional.normalize(torch.randn(plain.shape[-1], generator=generator), dim=0).to(plain)
    noise = (2e-2 if trace.of(block).output.dtype in (torch.bfloat16, torch.float16) else 1e-5) * float(plain.norm())

    def taken(writers: list[_Writer], change: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.no_grad(), _changed(model, writers, change):
            return _run(model, trace, stacks, gradients=False).taken[name].double()

    def push(x: Tensor) -> Tensor:
        steps = torch.randn(x.shape[:-1], generator=torch.Generator().manual_seed(1)).to(x)
        return x + steps[..., None] * v.to(x)

    def mirror(x: Tensor) -> Tensor:
        return (x.double() - 2 * (x.double() @ v)[..., None] * v).to(x)

    found = []
    for writer in _writers(model, trace, upstream, plain.shape[-1]):
        moved = taken([writer], push) - plain
        if (moved - (moved @ v)[..., None] * v).norm() <= noise + 1e-3 * moved.norm() and moved.norm() > noise:
            found.append(writer)
    closed = bool((taken(found, mirror) - mirror(plain)).norm() <= 10 * noise)
    return tuple(writer.name for writer in found), closed
