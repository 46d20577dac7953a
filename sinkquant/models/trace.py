"""Find a model's roles by running it once on a few tokens and comparing the tensors that its modules saw.

Two modules read the same stream if their inputs are the same tensor; a module is a writer if what is added to the
stream is that writer's output. What cannot be explained is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError
from sinkquant.inputs.batches import Batch
from sinkquant.models.bridges import find_bridges
from sinkquant.models.cached import find_cached
from sinkquant.models.explain import Place, explain_block
from sinkquant.models.media import Media, media_ids
from sinkquant.models.norm import norm_kind
from sinkquant.models.outside import Outside, look_outside
from sinkquant.models.positions import find_positions, takes_ids
from sinkquant.models.record import TOKENS, Trace, first_tensor, is_plain, record, run_probe, token_probe
from sinkquant.models.roles import Block, Norm, Roles, Stack
from sinkquant.models.rope import rope_kind
from sinkquant.models.rotates import rotates
from sinkquant.models.stacks import Chain, find_stacks
from sinkquant.models.stream import at, is_by_token
from sinkquant.models.verify import causal_blocks, final_readers, verify_blocks

TOWER = 0.02  # of a model's weights: what is named that lies beside the blocks


def trace_roles(model: nn.Module, probe: Batch | None = None) -> Roles:
    """Roles of a model that runs on `probe`: a small batch whose arguments' lengths differ from each other, so that
    rows tell whose they are; None: seven token ids.

    Raises SinkquantError where no stack of blocks is found, or one whose blocks cannot be run one by one.
    """
    trace = _trace(model, probe if probe is not None else token_probe(model))
    chains = find_stacks(model, trace)
    around = look_outside(model, trace, chains)
    shared = _shared(model)
    found = [
        explain_block(model, trace, place, shared)
        for name, chain in chains.items()
        for place in _places(trace, chain, around[name])
    ]
    blocks = {block.name: block for block in verify_blocks(model, trace, tuple(found))}
    causal = causal_blocks(model, trace, tuple(found))
    attends = trace.own and any(block.attentions for block in found)
    cached, unseen = ((), None) if attends else find_cached(model, trace)
    for name in causal:  # what sees later rows keeps none
        own = tuple(one for one in cached if one.module.startswith(f"{name}."))
        blocks[name] = replace(blocks[name], cached=own)
    embedding, head = _embedding(model, trace), _head(model)
    stacks = tuple(
        _stack(trace, name, [blocks[n] for n in chain], around[name], causal) for name, chain in chains.items()
    )
    if all(stack.rows is None for stack in stacks) and all(t.dim() == 2 for t in trace.probe.tensors.values()):
        raise SinkquantError(
            f"{type(model).__name__}: its blocks take {tuple(_taken(trace, stacks[-1]).shape)} for "
            f"{TOKENS} tokens, not a vector a token, which is not supported yet."
        )
    if trace.probe.real and all(stack.rows is None for stack in stacks):
        raise SinkquantError(
            f"{type(model).__name__}: between its blocks of text something else than they changes the stream, such as "
            "rows of images that are added there, which is not supported yet."
        )
    stacks = tuple(replace(stack, final_readers=final_readers(model, trace, stack, tuple(found))) for stack in stacks)
    ends = frozenset(name for name in (embedding, head) if name is not None)
    stacks = tuple(replace(stack, rotates=rotates(model, trace, stack, ends)) for stack in stacks)
    unexplained = [note for stack in stacks for note in _notes(stack, around[stack.name], several=len(stacks) > 1)]
    bridges = find_bridges(trace, chains, {name: one.upstream for name, one in around.items()}, shared)
    known = {embedding, head, *(stack.final_norm.name for stack in stacks if stack.final_norm)}
    known |= {name for bridge in bridges for site in bridge.sites for name in site.linears}
    unexplained.extend(_beside(model, list(chains), known))
    rope = rope_kind(model.config)
    absolute = rope == "none" and len(stacks) == 1
    return Roles(
        stacks=stacks,
        embedding=embedding,
        head=head,
        tied=head is not None and id(model.get_submodule(head).weight) in shared,
        rope=rope,
        unexplained=tuple(unexplained),
        own_linears=any(not is_plain(model.get_submodule(name)) for block in found for name in block.linears),
        attends=attends,
        unseen=unseen,
        positions=find_positions(model, trace, embedding, shared) if absolute else None,
        media=_media(model, trace.probe, stacks),
        bridges=bridges,
        counts=_counts(model, trace, stacks, rope),
    )


def _media(model: nn.Module, probe: Batch, stacks: tuple[Stack, ...]) -> Media | None:
    """Of the first stack whose rows are ids that media stand among."""
    ids = media_ids(model.config)
    for stack in stacks:
        if ids and stack.rows is not None and not (given := probe.tensors[stack.rows]).is_floating_point():
            media = Media(stack.name, stack.rows, ids)
            if media.find(given).any():
                return media
    return None


def _counts(model: nn.Module, trace: Trace, stacks: tuple[Stack, ...], rope: str) -> bool:
    """Whether positions are those of the tokens in order: some models give those of images rows and columns."""
    rows = stacks[-1].rows
    if len(stacks) == 1 or rope == "none" or rows is None:
        return True
    return takes_ids(model, trace, trace.probe.tensors[rows].shape[1])


def _places(trace: Trace, chain: Chain, around: Outside) -> Iterator[Place]:
    """What every block of a stack is given."""
    for name, stream in chain.items():
        arguments = trace.of(name).arguments
        taken = stream.taken(arguments)
        others = []
        for place, sources in around.reads.items():
            given = first_tensor(at(arguments, place))
            if given is not None and given.is_floating_point() and given.dim() > 2:
                others.append((given, sources[-1]))
        numbers = {t.shape[0] * t.shape[1] for t in trace.probe.tensors.values() if t.dim() == 2}
        own = {n for n in numbers if is_by_token(taken, 1, n)} or {taken[..., 0].numel()}
        yield Place(name, stream, tuple(others), frozenset(own | {given[..., 0].numel() for given, _ in others}))


def _taken(trace: Trace, stack: Stack) -> Tensor:
    """The stream in front of a stack."""
    block = stack.blocks[0]
    return block.stream.taken(trace.of(block.name).arguments)


def _stack(trace: Trace, name: str, blocks: list[Block], around: Outside, causal: frozenset[str]) -> Stack:
    first, last = blocks[0].stream.taken(trace.of(blocks[0].name).arguments), blocks[-1]
    behind = last.stream.given(trace.of(last.name).result).data_ptr()
    final = next((e for e in trace.events if e.input.data_ptr() == behind and norm_kind(e.module) is not None), None)
    return Stack(
        name,
        width=first.shape[-1],
        blocks=tuple(blocks),
        embeddings=around.embeddings,
        closed=around.closed,
        final_norm=Norm(final.name, norm_kind(final.module)) if final else None,  # type: ignore[arg-type]
        causal=causal >= {block.name for block in blocks},
        rows=_rows(trace.probe, first),
        reads=tuple(dict.fromkeys(site.stack for block in blocks for site in block.sites if site.stack is not None)),
        gives=around.gives or (last.name,),
    )


def _rows(probe: Batch, stream: Tensor) -> str | None:
    """The argument whose entries the rows of a stream are."""
    fits = [n for n, t in probe.tensors.items() if t.dim() == 2 and is_by_token(stream, t.shape[0], t.shape[1])]
    return next((name for name in fits if name in probe.real), next(iter(fits), None))


def _notes(stack: Stack, around: Outside, several: bool) -> list[str]:
    """What is said of a stack."""
    where = f"{stack.name}: " if several else ""
    notes = []
    if not around.closed:
        notes.append(f"{where}something else than modules that are known writes the stream in front of the first block")
    elif len(stack.embeddings) > 1:
        notes.append(f"{where}{', '.join(stack.embeddings)} write the stream in front of the first block")
    if stack.final_norm is None:
        notes.append(f"{where}no norm was found between the last block and the head")
    return notes


def _embedding(model: nn.Module, trace: Trace) -> str | None:
    """The module that looks tokens up; None where a model has none, or several with one weight."""
    try:
        module = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    weight = getattr(module, "weight", None)
    ran = {e.name for e in trace.events if isinstance(weight, Tensor) and getattr(e.module, "weight", None) is weight}
    looked = [name for name in ran if not trace.of(name).input.is_floating_point()]
    return looked[0] if len(looked) == 1 else None


def _head(model: nn.Module) -> str | None:
    """The linear that scores tokens; None where a model has none."""
    try:
        module = model.get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return next((name for name, one in model.named_modules() if one is module), None) if module is not None else None


def _trace(model: nn.Module, probe: Batch) -> Trace:
    """A trace with our attention function where it computes what the model's own does, else with the model's own."""
    versions = [parameter._version for parameter in model.parameters()]
    try:
        plain = run_probe(model, probe, own=False)
    except Exception as error:  # whatever a model's code raises that wants something else
        names = ", ".join(probe.tensors)
        wanted = "token ids alone" if list(probe.tensors) == ["input_ids"] else names
        raise SinkquantError(
            f"{type(model).__name__} does not run on {wanted} ({type(error).__name__}: {error}): "
            "this architecture is not supported for this task."
        ) from error
    if versions != [parameter._version for parameter in model.parameters()]:
        raise SinkquantError(
            f"{type(model).__name__} changes its weights while it runs, which rounded weights cannot follow; this "
            "architecture is not supported."
        )
    trace: Trace | None
    try:
        trace = record(model, probe, own=True)
    except Exception:  # an argument that our function does not know, or a class that does not take another one
        trace = None
    if trace is not None and trace.calls and _same(trace, plain):
        return trace
    trace = record(model, probe, own=False)
    if not _same(trace, plain):
        raise SinkquantError(
            f"{type(model).__name__} gives other answers to the same inputs, because it draws at random, so that no "
            "result could be compared with it; this architecture is not supported."
        )
    return trace


def _same(trace: Trace, plain: Tensor) -> bool:
    """Whether the answers of the traced pass are `plain`."""
    assert trace.output is not None
    coarse = plain.dtype in (torch.bfloat16, torch.float16)
    same = trace.output.shape == plain.shape
    return same and bool((trace.output - plain).abs().max() <= (5e-2 if coarse else 1e-3) * plain.abs().max())


def _beside(model: nn.Module, stacks: list[str], known: set[str | None]) -> list[str]:
    """What is said of large parts beside the blocks: towers for images and sound."""
    sizes = Counter[str]()
    for name, parameter in model.named_parameters():
        path = name.rpartition(".")[0]
        if name.startswith(tuple(f"{stack}." for stack in stacks)) or path in known:
            continue
        parts = name.split(".")
        shared = max(_shared_parts(parts, stack.split(".")) for stack in stacks)
        sizes[".".join(parts[: min(shared + 1, len(parts) - 1)])] += parameter.numel()
    least = TOWER * sum(p.numel() for p in model.parameters())
    large = [f"{name} ({size / 1e6:.1f} M weights)" for name, size in sizes.items() if size >= least]
    return [f"beside the blocks stay in full precision: {', '.join(large)}"] if large else []


def _shared_parts(path: list[str], other: list[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, other, strict=False)))


def _shared(model: nn.Module) -> frozenset[int]:
    """Ids of the weights that belong to several modules, or to one that stands in several places."""
    places = Counter(
        id(module.weight)
        for _, module in model.named_modules(remove_duplicate=False)
        if isinstance(getattr(module, "weight", None), nn.Parameter)
    )
    return frozenset(weight for weight, count in places.items() if count > 1)
