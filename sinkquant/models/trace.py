"""Find the roles of a model's modules by running a few tokens and following the tensors.

Modules are connected where one's output is another's input (same storage), residual additions are found by arithmetic:
the stream after a writer minus the stream before it is that writer's output. What cannot be explained is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from sinkquant.errors import SinkquantError
from sinkquant.models.attention import AttentionCall, own_attention, stages
from sinkquant.models.explain import explain_block, norm_kind
from sinkquant.models.roles import Block, Norm, Roles

TOKENS = 7  # a prime: no dimension of a model is mistaken for the token axis


@dataclass
class Event:
    """One call of a module. Tensors are kept alive so that no storage is used twice."""

    name: str
    module: nn.Module
    input: Tensor
    output: Tensor
    call: AttentionCall | None = None


@dataclass
class Trace:
    """All calls of one forward pass, in order of completion, and the attention calls by module name."""

    events: list[Event] = field(default_factory=list)
    calls: dict[str, AttentionCall] = field(default_factory=dict)

    def of(self, name: str) -> Event:
        """The first call of module `name`."""
        return next(event for event in self.events if event.name == name)

    def inside(self, name: str) -> list[Event]:
        """Calls of modules below module `name`."""
        return [event for event in self.events if event.name.startswith(name + ".")]


def first_tensor(value: object) -> Tensor | None:
    """The first tensor in a module's arguments or outputs."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list):
        return next((t for item in value if (t := first_tensor(item)) is not None), None)
    if isinstance(value, dict):
        return first_tensor(list(value.values()))
    return None


@contextmanager
def recording(model: nn.Module) -> Iterator[Trace]:
    """Record every module call and every attention call of the forward passes inside the context."""
    trace = Trace()
    names = {module: name for name, module in model.named_modules()}

    def keep(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        given, made = first_tensor((*args, kwargs)), first_tensor(output)
        if given is not None and made is not None:
            trace.events.append(Event(names[module], module, given, made))

    def tap(module: nn.Module, call: AttentionCall) -> AttentionCall:
        trace.calls[names[module]] = call
        return call

    hooks = [module.register_forward_hook(keep, with_kwargs=True) for module in names if module is not model]
    try:
        with stages(list(names), tap), own_attention(model), torch.no_grad():
            yield trace
    finally:
        for hook in hooks:
            hook.remove()


def run_tokens(model: nn.Module) -> None:
    """One forward pass over a few different tokens."""
    vocabulary = model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
    device = next(model.parameters()).device
    ids = (torch.arange(1, TOKENS + 1, device=device) * 7919) % vocabulary
    model(input_ids=ids[None], use_cache=False)


def trace_roles(model: nn.Module) -> Roles:
    """Roles of a causal language model. Raises SinkquantError where no stack of blocks is found."""
    with recording(model) as trace:
        run_tokens(model)
    list_name, block_names = _stack(model, trace)
    embedding = _name_of(model, model.get_input_embeddings())  # type: ignore[operator]
    head_module = model.get_output_embeddings()  # type: ignore[operator]
    head = _name_of(model, head_module) if head_module is not None else None
    blocks = tuple(explain_block(model, trace, name) for name in block_names)
    blocks = _with_up(model, trace, blocks)
    last, width = trace.of(block_names[-1]).output, trace.of(block_names[0]).input.shape[-1]
    final = next(
        (e for e in trace.events if e.input.data_ptr() == last.data_ptr() and norm_kind(e.module) is not None), None
    )
    unexplained = []
    if not collinear(trace.of(block_names[0]).input, trace.of(embedding).output):
        unexplained.append("the input of the first block is not the token embedding (absolute positions are added)")
    if final is None:
        unexplained.append("no norm was found between the last block and the head")
    tied = head_module is not None and head_module.weight is model.get_input_embeddings().weight  # type: ignore
    return Roles(
        list_name=list_name,
        width=width,
        blocks=blocks,
        embedding=embedding,
        final_norm=Norm(final.name, norm_kind(final.module)) if final else None,  # type: ignore[arg-type]
        head=head,
        tied=tied,
        rope=_rope(model),
        unexplained=tuple(unexplained),
    )


def collinear(a: Tensor, b: Tensor) -> bool:
    """True if a = c·b for one number c (residual and embedding multipliers commute with a rotation)."""
    if a.shape != b.shape:
        return False
    a, b = a.double().flatten(), b.double().flatten()
    factor = (a @ b) / (b @ b).clamp_min(1e-30)
    return bool((a - factor * b).norm() <= 1e-4 * a.norm()) and float(factor.abs()) > 1e-6


def _stack(model: nn.Module, trace: Trace) -> tuple[str, list[str]]:
    """The longest list of modules each of which takes the output of the one before."""
    best: tuple[str, list[str]] = ("", [])
    for list_name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) <= len(best[1]):
            continue
        names = [f"{list_name}.{index}" for index in range(len(module))]
        try:
            events = [trace.of(name) for name in names]
        except StopIteration:
            continue
        if all(a.output is b.input for a, b in pairwise(events)):
            best = (list_name, names)
    if not best[1]:
        raise SinkquantError(
            f"{type(model).__name__}: no list of blocks on one residual stream was found; use a decoder-only model."
        )
    return best


def _with_up(model: nn.Module, trace: Trace, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Find what gates are multiplied with: doubling that linear's output doubles the down projection's input.

    Tried in the first block, whose input does not change; the others are built alike.
    """
    first = blocks[0]
    if first.down is None:
        return blocks
    before = trace.of(first.down).input
    candidates = [
        e.name for e in trace.inside(first.name) if e.output.shape == before.shape and e.name in first.linears
    ]
    for name in candidates:
        hook = model.get_submodule(name).register_forward_hook(lambda *args: args[2] * 2)
        try:
            with recording(model) as changed:
                run_tokens(model)
        finally:
            hook.remove()
        if torch.allclose(changed.of(first.down).input, 2 * before, rtol=1e-3, atol=1e-6):
            suffix = name.removeprefix(first.name)
            return tuple(replace(b, up=b.name + suffix) if b.name + suffix in b.linears else b for b in blocks)
    return blocks


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def _rope(model: nn.Module) -> str:
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return "none"
    kinds = {p.get("rope_type", "default") for p in parameters.values() if isinstance(p, dict)} or {
        parameters.get("rope_type", "default")
    }
    return "dynamic" if kinds & {"dynamic", "longrope"} else "+".join(sorted(kinds))
