"""Try out what the trace suggests; what does not hold is taken back.

Every experiment is one pass for all blocks (two, where some fail), so that depth adds none.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sinkquant.models.record import Trace, is_linear, run_probe
from sinkquant.models.replay import Change, Changes, Replay, applied, recorded, untouched
from sinkquant.models.roles import Attention, Block, Norm, Stack

Blocks = tuple[Block, ...]


def verify_blocks(model: nn.Module, trace: Trace, blocks: Blocks) -> Blocks:
    """The blocks as experiments confirm them: readers of norms, queries and keys, plain values, gated inputs."""
    replay = Replay(model, trace, blocks)
    blocks = _tell_queries(replay, blocks)
    blocks = _only_readers(replay, blocks)
    blocks = _plain_values(replay, blocks)
    blocks = _shifting_keys(replay, blocks)
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
    for turn in range(max((len(block.attentions) for block in blocks), default=0)):
        changes = {}
        for block in blocks:
            attention = _at(block, turn)
            if attention is not None and attention.value and attention.output:
                t = _bases(attention, replay.trace.of(attention.value).output)
                inverse = torch.linalg.inv(t.double()).to(t.dtype).repeat_interleave(
                    attention.heads // attention.kv_heads, dim=0
                )  # fmt: skip
                changes[block.name] = Changes({attention.output: _by_head(inverse)}, {attention.value: _by_head(t)})
        plain = replay.cancels(changes)
        made = []
        for block in blocks:
            attention = _at(block, turn)
            if attention is not None and block.name in plain:
                block = _with(block, turn, replace(attention, plain=True))
            elif block.name in changes:
                note = "something stands between attention and output projection, so that values keep their basis"
                block = replace(block, unexplained=(*block.unexplained, note))
            made.append(block)
        blocks = tuple(made)
    return blocks


def _shifting_keys(replay: Replay, blocks: Blocks) -> Blocks:
    """A constant added to all keys adds the same to all scores of a query, which no softmax sees; tried where keys have
    no bias and their norm does."""
    for turn in range(max((len(block.attentions) for block in blocks), default=0)):
        at = {block.name: (block, attention) for block in blocks if (attention := _at(block, turn)) is not None}
        keys = {name: one.key for name, (block, one) in at.items() if one.key and _lacks_bias(replay, block, one.key)}
        changes = {name: Changes(outputs={key: _add(replay.trace.of(key).output)}) for name, key in keys.items()}
        shifted = replay.cancels(changes)
        blocks = tuple(
            _with(block, turn, replace(block.attentions[turn], shifts=True)) if block.name in shifted else block
            for block in blocks
        )
    return blocks


def _lacks_bias(replay: Replay, block: Block, key: str) -> bool:
    norms = [norm.name for norm, readers in block.reads if key in readers]
    biased = [name for name in norms if getattr(replay.model.get_submodule(name), "bias", None) is not None]
    return bool(biased) and replay.model.get_submodule(key).bias is None


def _at(block: Block, turn: int) -> Attention | None:
    return block.attentions[turn] if turn < len(block.attentions) else None


def _with(block: Block, turn: int, attention: Attention) -> Block:
    return replace(block, attentions=(*block.attentions[:turn], attention, *block.attentions[turn + 1 :]))


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
                swapped = replace(
                    attention, query=attention.key, key=attention.query,
                    query_norm=attention.key_norm, key_norm=attention.query_norm,
                )  # fmt: skip
                block = _with(block, block.attentions.index(attention), swapped)
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
    known = {name for a in block.attentions for name in (a.query, a.key, a.value, a.output)}
    shape = trace.of(block.down).input.shape
    return [n for n in block.linears if n != block.down and n not in known and trace.of(n).output.shape == shape]


def causal_blocks(model: nn.Module, trace: Trace, blocks: Blocks) -> frozenset[str]:
    """The blocks in which no row of the stream sees a later one: the first half of the rows stays as it is where the
    second half changes."""
    lengths = [tensor.shape[:2] for tensor in trace.probe.tensors.values() if tensor.dim() == 2]

    def first_half(block: Block, x: Tensor) -> Tensor:
        axis = -2 if x.dim() < 4 or any(x.shape[-3:-1] == length for length in lengths) else 1
        return x.narrow(axis, 0, x.shape[axis] // 2)

    return Replay(model, trace, blocks).causal(first_half)


def final_readers(model: nn.Module, trace: Trace, stack: Stack, blocks: Blocks) -> tuple[str, ...]:
    """The linears that read a stack's final norm, if nothing else does: scaling it is undone in front of them.

    `blocks`: of all stacks.
    """
    if stack.final_norm is None:
        return ()
    made = trace.of(stack.final_norm.name).output
    storage, width = made.untyped_storage().data_ptr(), made.shape[-1]
    reading = [e for e in trace.events if e.input.untyped_storage().data_ptr() == storage and is_linear(e)]
    if any(e.input.shape[-1] != width for e in reading):  # several rows as one: patches that are merged
        return ()
    readers = [e.name for e in reading]
    d = _factors_of(made)
    changes = Changes(dict.fromkeys(readers, _divide(d)), {stack.final_norm.name: _multiply(d)})
    return tuple(dict.fromkeys(readers)) if readers and same_output(model, trace, changes, blocks) else ()


def same_output(model: nn.Module, trace: Trace, changes: Changes, blocks: Blocks = ()) -> bool:
    """Whether the model gives what it gave. `blocks`: those that need not be computed where no change reaches them."""
    with recorded(model, trace, untouched(trace, blocks, [changes])), applied(model, changes):
        output = run_probe(model, trace.probe, own=trace.own)
    assert trace.output is not None
    coarse = output.dtype in (torch.bfloat16, torch.float16)
    return bool((output - trace.output).abs().max() <= (0.1 if coarse else 1e-3) * float(trace.output.abs().max()))


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


def _add(like: Tensor) -> Change:
    """A random constant a channel, as large as tensors like this one."""
    constant = torch.randn(like.shape[-1], generator=torch.Generator().manual_seed(0)).to(like) * like.std()
    return lambda x: x + constant


def _multiply(d: Tensor) -> Change:
    return lambda x: x * d


def _divide(d: Tensor) -> Change:
    return lambda x: x / d
