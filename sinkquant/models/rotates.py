"""Try out whether a stack's stream can be rotated (R1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sinkquant.models.norm import channel_scale, clear, gain
from sinkquant.models.record import Trace
from sinkquant.models.replay import Change, Changes
from sinkquant.models.roles import Norm, Stack
from sinkquant.models.verify import same_output


def rotates(model: nn.Module, trace: Trace, stack: Stack, ends: frozenset[str]) -> bool:
    """Whether what the model gives stays the same if everything that writes a stack's stream is turned, and everything
    that reads it turns it back.

    `ends`: embedding and head, which may share a weight, as they get their own. Norms are made to multiply by one
    meanwhile, because their weights will be in the linears; so will scales between writers and stream.
    """
    complete = stack.closed and bool(stack.final_readers) and not stack.sandwiched
    if not complete or not all(_own(model, trace, name, ends) for name in stack.embeddings):
        return False
    norms = stack.reads_stream
    writers = [writer for block in stack.blocks for writer in block.writers]
    if not all(_folds(model, *read) for read in norms):
        return False
    if any(channel_scale(model.get_submodule(w.scale)) is None for w in writers if w.scale is not None):
        return False
    first = stack.blocks[0]
    turn, back = _reflection(first.stream.taken(trace.of(first.name).arguments), keeps_mean=stack.subtracts_mean)
    inputs: dict[str, Change] = {}
    for norm, readers in norms:
        module = model.get_submodule(norm.name)
        g, bias = gain(module, norm.kind), getattr(module, "bias", None)
        b = torch.zeros_like(g) if bias is None else bias.detach().double()
        inputs |= dict.fromkeys(readers, lambda x, g=g, b=b: back(x - b.to(x)) * g.to(x) + b.to(x))  # type: ignore[misc]
    modules = dict(model.named_modules())
    outputs = {writer.scale or writer.linear: turn for writer in writers}
    for name in stack.embeddings:
        if name in modules:
            outputs[name] = _along_channels(turn) if isinstance(modules[name], _ConvNd) else turn
    with (
        _cleared(model, [norm for norm, _ in norms]),
        _turned(model, [name for name in stack.embeddings if name not in modules], turn),
    ):
        return same_output(model, trace, Changes(inputs, outputs))


def _own(model: nn.Module, trace: Trace, name: str, ends: frozenset[str]) -> bool:
    """Whether a rotation can go into a writer in front of the first block, which nothing but embedding and head shares:
    a parameter, an embedding, a linear, or a convolution that mixes all channels."""
    module = dict(model.named_modules()).get(name)
    if module is None:
        return True
    if isinstance(module, _ConvNd):
        if module.groups > 1 or module.transposed:
            return False
    elif not isinstance(module, nn.Embedding | nn.Linear):
        return False
    sharing = {e.name for e in trace.events if getattr(e.module, "weight", None) is module.weight}
    return sharing <= {name, *(ends if name in ends else ())}


def _folds(model: nn.Module, norm: Norm, readers: tuple[str, ...]) -> bool:
    """Whether the norm's weight can go into its readers. A gain of zero hides a channel whose bias only a reader's bias
    could take."""
    module = model.get_submodule(norm.name)
    takes = all(getattr(model.get_submodule(name), "bias", None) is not None for name in readers)
    return takes or getattr(module, "bias", None) is None or bool((gain(module, norm.kind) != 0).all())


@contextmanager
def _cleared(model: nn.Module, norms: list[Norm]) -> Iterator[None]:
    modules = [model.get_submodule(norm.name) for norm in norms]
    kept = [module.weight.detach().clone() for module in modules]  # type: ignore[operator, union-attr]
    try:
        for module, norm in zip(modules, norms, strict=True):
            clear(module, norm.kind)
        yield
    finally:
        with torch.no_grad():
            for module, weight in zip(modules, kept, strict=True):
                module.weight.copy_(weight)  # type: ignore[operator, union-attr]


@contextmanager
def _turned(model: nn.Module, names: list[str], turn: Change) -> Iterator[None]:
    """Parameters that write the stream themselves."""
    parameters = [model.get_parameter(name) for name in names]
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.data.copy_(turn(parameter.detach()))
        yield
    finally:
        for parameter, before in zip(parameters, kept, strict=True):
            parameter.data.copy_(before)


def _along_channels(change: Change) -> Change:
    """The change on the second axis, where convolutions have their channels."""
    return lambda x: change(x.movedim(1, -1)).movedim(-1, 1)


def _reflection(x: Tensor, *, keeps_mean: bool) -> tuple[Change, Change]:
    """A random orthogonal map of the last axis of tensors like `x`, and its inverse: signs, order, a reflection.

    One that keeps the mean has no signs, and reflects along a vector of mean zero.
    """
    width, generator = x.shape[-1], torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(0, 2, (width,), generator=generator) - 1
    order = torch.randperm(width, generator=generator).to(x.device)
    v = torch.randn(width, generator=generator)
    if keeps_mean:
        signs, v = torch.ones_like(signs), v - v.mean()
    signs, v = signs.to(x), torch.nn.functional.normalize(v, dim=0).to(x)
    undo = order.argsort()

    def reflect(x: Tensor) -> Tensor:
        return x - 2 * (x @ v)[..., None] * v

    return lambda x: reflect((x * signs)[..., order]), lambda x: reflect(x)[..., undo] * signs
