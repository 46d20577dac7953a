"""Try out what the trace suggests; what does not hold is taken back.

Every experiment is one pass for all blocks (two, where some fail), so that depth adds none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from sinkquant.models.norm import clear, gain
from sinkquant.models.record import Trace, run_tokens
from sinkquant.models.replay import Change, Changes, Replay, applied
from sinkquant.models.roles import Attention, Block, Norm, NormKind, Roles

Blocks = tuple[Block, ...]


def verify_blocks(model: nn.Module, trace: Trace, blocks: Blocks) -> Blocks:
    """The blocks as experiments confirm them: readers of norms, queries and keys, plain values, gated inputs."""
    replay = Replay(model, trace, blocks)
    blocks = _tell_queries(replay, blocks)
    blocks = _only_readers(replay, blocks)
    blocks = _plain_values(replay, blocks)
    return _factors(replay, blocks)


def _only_readers(replay: Replay, blocks: Blocks) -> Blocks:
    """Keep the norms that nothing but their linears reads: scaling their output is undone in front of the linears."""
    kept: dict[str, list[tuple[Norm, tuple[str, ...]]]] = {block.name: [] for block in blocks}
    for turn in range(max((len(block.reads) for block in blocks), default=0)):
        tried = {block.name: block.reads[turn] for block in blocks if turn < len(block.reads)}
        changes = {}
        for name, (norm, readers) in tried.items():
            d = _factors_of(replay.trace.of(norm.name).output)
            changes[name] = Changes(dict.fromkeys(readers, _divide(d)), {norm.name: _multiply(d)})
        for name in replay.cancels(changes):
            kept[name].append(tried[name])
    made = []
    for block in blocks:
        left = len(block.reads) - len(kept[block.name])
        note = ("norms that more than linears read keep their weights",) if left else ()
        made.append(replace(block, reads=tuple(kept[block.name]), unexplained=(*block.unexplained, *note)))
    return tuple(made)


def _plain_values(replay: Replay, blocks: Blocks) -> Blocks:
    """Where values may change their basis, the output projection undoes it."""
    changes = {}
    for block in blocks:
        attention = block.attention
        if attention is not None and attention.value and attention.output:
            t = _bases(attention, replay.trace.of(attention.value).output)
            inverse = torch.linalg.inv(t.double()).to(t.dtype).repeat_interleave(
                attention.heads // attention.kv_heads, dim=0
            )  # fmt: skip
            changes[block.name] = Changes({attention.output: _by_head(inverse)}, {attention.value: _by_head(t)})
    plain = replay.cancels(changes)
    made = []
    for block in blocks:
        attention = block.attention
        if attention is not None and block.name in plain:
            block = replace(block, attentions=(replace(attention, plain=True),))
        elif block.name in changes:
            note = "something stands between attention and output projection, so that values keep their basis"
            block = replace(block, unexplained=(*block.unexplained, note))
        made.append(block)
    return tuple(made)


def _tell_queries(replay: Replay, blocks: Blocks) -> Blocks:
    """With as many key heads as query heads, widths do not tell them apart: change one linear and see what moves."""
    found = {block.name: block.attention for block in blocks if block.attention is not None and block.attention.key}
    unsure = {name: attention for name, attention in found.items() if attention.heads == attention.kv_heads}
    if not unsure:
        return blocks
    calls = replay.calls({n: Changes(outputs={str(a.key): lambda x: 2 * x}) for n, a in unsure.items()})
    made = []
    for block in blocks:
        attention = unsure.get(block.name)
        if attention is not None:
            (before,), after = replay.trace.calls[attention.module], calls[attention.module]
            if (after.query - before.query).abs().max() > (after.key - before.key).abs().max():
                attention = replace(
                    attention, query=attention.key, key=attention.query,
                    query_norm=attention.key_norm, key_norm=attention.query_norm,
                )  # fmt: skip
            block = replace(block, attentions=(attention,))
        made.append(block)
    return tuple(made)


def _factors(replay: Replay, blocks: Blocks) -> Blocks:
    """Find what gates are multiplied with: scaling that linear's output is undone in front of the down projection."""
    candidates = {block.name: _candidates(replay.trace, block) for block in blocks}
    found: dict[str, str] = {}
    for turn in range(max(map(len, candidates.values()), default=0)):
        changes, tried = {}, {}
        for block in blocks:
            names = candidates[block.name]
            if turn < len(names) and block.name not in found and block.down is not None:
                d = _factors_of(replay.trace.of(block.down).input)
                changes[block.name] = Changes({block.down: _divide(d)}, {names[turn]: _multiply(d)})
                tried[block.name] = names[turn]
        found |= {name: tried[name] for name in replay.cancels(changes)}
    return tuple(replace(block, up=found.get(block.name)) for block in blocks)


def _candidates(trace: Trace, block: Block) -> list[str]:
    if block.down is None:
        return []
    attention = block.attention
    known = {attention.query, attention.key, attention.value, attention.output} if attention else set()
    shape = trace.of(block.down).input.shape
    return [n for n in block.linears if n != block.down and n not in known and trace.of(n).output.shape == shape]


def rotates(model: nn.Module, trace: Trace, roles: Roles) -> bool:
    """Whether the stream can be rotated (R1): everything that reads it turns it back, everything else is turned.

    Norms are made to multiply by one meanwhile, because their weights will be in the linears.
    """
    norms = [
        *(read for block in roles.blocks for read in block.reads),
        *([(roles.final_norm, (roles.head,))] if roles.final_norm and roles.head else []),
    ]
    complete = roles.final_norm is not None and roles.head is not None and not roles.sandwiched
    if not complete or any(norm.kind is NormKind.LAYER for norm, _ in norms):
        return False
    assert roles.embedding is not None
    turn, back = _reflection(trace.of(roles.embedding).output)
    inputs: dict[str, Change] = {}
    for norm, readers in norms:
        g = gain(model.get_submodule(norm.name), norm.kind)
        inputs |= dict.fromkeys(readers, lambda x, g=g: back(x) * g.to(x))  # type: ignore[misc]
    outputs = {roles.embedding: turn} | {w.linear: turn for block in roles.blocks for w in block.writers}
    with _cleared(model, [norm for norm, _ in norms]), applied(model, Changes(inputs, outputs)):
        logits = run_tokens(model, own=trace.own)
    assert trace.logits is not None
    coarse = logits.dtype in (torch.bfloat16, torch.float16)
    limit = (0.1 if coarse else 1e-3) * float(trace.logits.abs().max())
    return bool((logits - trace.logits).abs().max() <= limit)


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


def _reflection(x: Tensor) -> tuple[Change, Change]:
    """A random orthogonal map of the last axis of tensors like `x`, and its inverse: signs, order, a reflection."""
    width, generator = x.shape[-1], torch.Generator().manual_seed(0)
    signs = _signs(width, generator).to(x)
    order = torch.randperm(width, generator=generator).to(x.device)
    v = torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0).to(x)
    undo = order.argsort()

    def reflect(x: Tensor) -> Tensor:
        return x - 2 * (x @ v)[..., None] * v

    return lambda x: reflect((x * signs)[..., order]), lambda x: reflect(x)[..., undo] * signs


def _factors_of(x: Tensor) -> Tensor:
    """A random factor for every channel of tensors like `x`, negative ones among them."""
    generator = torch.Generator().manual_seed(0)
    width = x.shape[-1]
    return ((0.5 + 1.5 * torch.rand(width, generator=generator)) * _signs(width, generator)).to(x)


def _signs(width: int, generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, (width,), generator=generator) - 1


def _bases(attention: Attention, x: Tensor) -> Tensor:
    """A random basis for the values of every KV head, (kv heads, d, d)."""
    size, generator = attention.value_dim, torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(attention.kv_heads, size, size, generator=generator)).Q
    return (turned * (0.5 + 1.5 * torch.rand(size, generator=generator))).to(x)


def _by_head(t: Tensor) -> Change:
    return lambda x: torch.einsum("...hd,hde->...he", x.unflatten(-1, (t.shape[0], -1)), t).flatten(-2)


def _multiply(d: Tensor) -> Change:
    return lambda x: x * d


def _divide(d: Tensor) -> Change:
    return lambda x: x / d
