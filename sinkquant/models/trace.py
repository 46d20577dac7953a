"""Find a model's roles by running it once on a few tokens and comparing the tensors that its modules saw.

Two modules read the same stream if their inputs are the same tensor; a module is a writer if what is added to the
stream is that writer's output. What cannot be explained is said.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import torch
from torch import nn

from sinkquant.errors import SinkquantError
from sinkquant.models.explain import explain_block
from sinkquant.models.norm import norm_kind
from sinkquant.models.record import TOKENS, Trace, collinear, is_plain, record, run_tokens
from sinkquant.models.roles import Norm, Roles, Stack
from sinkquant.models.stream import Stream, carried, is_by_token, link
from sinkquant.models.verify import rotates, verify_blocks

TOWER = 0.02  # of a model's weights: what is named that lies beside the blocks


def trace_roles(model: nn.Module) -> Roles:
    """Roles of a causal language model. Raises SinkquantError where no stack of blocks is found, or one whose blocks
    cannot be run one by one."""
    trace = _trace(model)
    list_name, streams = _stack(model, trace)
    names = list(streams)
    embedding = _name_of(model, model.get_input_embeddings())  # type: ignore[operator]
    head_module = model.get_output_embeddings()  # type: ignore[operator]
    head = _name_of(model, head_module) if head_module is not None else None
    shared = _shared(model)
    blocks = tuple(explain_block(model, trace, name, stream, shared) for name, stream in streams.items())
    blocks = verify_blocks(model, trace, blocks)
    first = blocks[0].stream.taken(trace.of(names[0]).arguments)
    if not is_by_token(first, 1, TOKENS):
        raise SinkquantError(
            f"{type(model).__name__}: its blocks take {tuple(first.shape)} for {TOKENS} tokens, not a vector a token, "
            "which is not supported yet."
        )
    last = blocks[-1].stream.given(trace.of(names[-1]).result)
    final = next(
        (e for e in trace.events if e.input.data_ptr() == last.data_ptr() and norm_kind(e.module) is not None), None
    )
    unexplained = []
    if not collinear(first, trace.of(embedding).output):
        unexplained.append("the input of the first block is not the token embedding (absolute positions are added)")
    if final is None:
        unexplained.append("no norm was found between the last block and the head")
    unexplained.extend(_beside(model, list_name, {embedding, head, final.name if final else None}))
    tied = head_module is not None and head_module.weight is model.get_input_embeddings().weight  # type: ignore
    stack = Stack(
        list_name,
        width=first.shape[-1],
        blocks=blocks,
        embeddings=(embedding,),
        final_norm=Norm(final.name, norm_kind(final.module)) if final else None,  # type: ignore[arg-type]
    )
    roles = Roles(
        stacks=(stack,),
        embedding=embedding,
        head=head,
        tied=tied,
        rope=_rope(model),
        unexplained=tuple(unexplained),
        own_linears=any(not is_plain(model.get_submodule(name)) for block in blocks for name in block.linears),
        attends=trace.own and any(block.attention is not None for block in blocks),
    )
    return replace(roles, stacks=(replace(stack, rotates=rotates(model, trace, roles)),))


def _trace(model: nn.Module) -> Trace:
    """A trace with our attention function where it computes what the model's own does, else with the model's own."""
    versions = [parameter._version for parameter in model.parameters()]
    try:
        plain = run_tokens(model, own=False)
    except Exception as error:  # whatever a model's code raises that wants more than token ids
        raise SinkquantError(
            f"{type(model).__name__} does not run on token ids alone ({type(error).__name__}: {error}): "
            "only decoders of text are supported."
        ) from error
    if versions != [parameter._version for parameter in model.parameters()]:
        raise SinkquantError(
            f"{type(model).__name__} changes its weights while it runs, which rounded weights cannot follow; this "
            "architecture is not supported."
        )
    try:
        trace = record(model, own=True)
    except Exception:  # an argument that our function does not know, or a class that does not take another one
        return record(model, own=False)
    assert trace.logits is not None
    coarse = plain.dtype in (torch.bfloat16, torch.float16)
    same = (trace.logits - plain).abs().max() <= (5e-2 if coarse else 1e-3) * plain.abs().max()
    return trace if bool(same) and trace.calls else record(model, own=False)


def _beside(model: nn.Module, list_name: str, known: set[str | None]) -> list[str]:
    """What is said of large parts beside the blocks: towers for images and sound."""
    sizes = Counter[str]()
    for name, parameter in model.named_parameters():
        path = name.rpartition(".")[0]
        if name.startswith(list_name + ".") or path in known:
            continue
        parts = name.split(".")
        shared = sum(a == b for a, b in zip(parts, list_name.split("."), strict=False))
        sizes[".".join(parts[: min(shared + 1, len(parts) - 1)])] += parameter.numel()
    least = TOWER * sum(p.numel() for p in model.parameters())
    large = [f"{name} ({size / 1e6:.1f} M weights)" for name, size in sizes.items() if size >= least]
    return [f"beside the blocks stay in full precision: {', '.join(large)}"] if large else []


def _shared(model: nn.Module) -> frozenset[int]:
    """Ids of the weights that belong to several modules, or to one that stands in several places."""
    places = Counter(
        id(module.weight)
        for _, module in model.named_modules(remove_duplicate=False)
        if isinstance(getattr(module, "weight", None), nn.Parameter)
    )
    return frozenset(weight for weight, count in places.items() if count > 1)


def _stack(model: nn.Module, trace: Trace) -> tuple[str, dict[str, Stream]]:
    """The longest list of modules each of which takes the output of the one before, and how it does."""
    best: tuple[str, dict[str, Stream]] = ("", {})
    calls = Counter(event.name for event in trace.events)
    several = False
    for list_name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) <= len(best[1]):
            continue
        names = [f"{list_name}.{index}" for index in range(len(module))]
        if any(not calls[name] for name in names):
            continue
        links = [link(trace.of(a).result, trace.of(b).arguments) for a, b in pairwise(names)]
        if any(found is None for found in links):
            continue
        if any(calls[name] > 1 for name in names):
            several = True
            continue
        steps = [found for found in links if found is not None] or [Stream()]
        hand_overs = zip(pairwise(names), steps, strict=False)  # a single block hands nothing on
        if any(carried(trace.of(a).result, trace.of(b).arguments, step) for (a, b), step in hand_overs):
            raise SinkquantError(
                f"{type(model).__name__}: its blocks hand on more than the residual stream, which is not supported yet."
            )
        best = list_name, _streams(trace, names, steps)
    if not best[1]:
        reason = (
            "its blocks run more than once in a pass"
            if several
            else ("no list of blocks was found that take the residual stream one from the other")
        )
        raise SinkquantError(f"{type(model).__name__}: {reason}; this architecture is not supported yet.")
    return best


def _streams(trace: Trace, names: list[str], steps: list[Stream]) -> dict[str, Stream]:
    """Where every block takes the stream, and gives it; the first and the last do as their neighbours do."""
    if len(names) == 1:
        result = trace.of(names[0]).result
        return {names[0]: Stream(0, (0, len(result)) if isinstance(result, tuple) else None)}
    taken, given = [steps[0], *steps], [*steps, steps[-1]]
    return {n: Stream(t.argument, g.result) for n, t, g in zip(names, taken, given, strict=True)}


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _rope(model: nn.Module) -> str:
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:  # GPT-J's kind has no parameters, only a number of channels that are rotated
        return "default" if getattr(config, "rotary_dim", None) else "none"
    kinds = {p.get("rope_type", "default") for p in parameters.values() if isinstance(p, dict)} or {
        parameters.get("rope_type", "default")
    }
    return "dynamic" if kinds & {"dynamic", "longrope"} else "+".join(sorted(kinds))
