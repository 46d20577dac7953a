"""Experts as linears: fused 3-D parameters taken apart, and the function of transformers' registry that runs them.

transformers keeps the experts of a layer in one module with parameters (E, 2I, D) and (E, D, I). Here every expert is
a child of that module, named by its number, with linears `gate_proj`, `up_proj`, `down_proj` as on the hub; router,
activation and everything around stay the model's own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from sinkquant.models.stand_ins import put_stand_ins, stand_ins

NAME = "sinkquant"
INPUTS, GATE, UP, OUTPUT = "gate_up_proj", "gate_proj", "up_proj", "down_proj"


class Expert(nn.Module):
    """One expert; without a gate its hidden features are those of `up_proj` behind the activation."""

    def __init__(self, width: int, hidden: int, *, gate: bool, bias: bool) -> None:
        super().__init__()
        if gate:
            self.gate_proj = nn.Linear(width, hidden, bias=bias)
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def run(self, x: Tensor, experts: Any) -> Tensor:
        """(n, D) -> (n, D); `experts` is the module that this is a part of, whose activation and layout hold.

        No `forward`: what spreads a model over devices would move `experts` as one of its inputs.
        """
        return self.down_proj(self.hidden(x, experts))  # type: ignore[no-any-return]

    def hidden(self, x: Tensor, experts: Any) -> Tensor:
        """What the down projection is fed: (n, D) -> (n, I)."""
        if not experts.has_gate:
            return experts.act_fn(self.up_proj(x))  # type: ignore[no-any-return]
        both = self.gate_proj(x), self.up_proj(x)
        joined = torch.cat(both, -1) if experts.is_concatenated else torch.stack(both, -1).flatten(-2)
        return experts._apply_gate(joined)  # type: ignore[no-any-return]


def fused_experts(model: nn.Module) -> dict[str, nn.Module]:
    """By name the modules whose experts can be taken apart: those that transformers' registry runs, with weights of
    shapes that their flags explain and nothing else."""
    return {name: module for name, module in model.named_modules() if _is_fused(module)}


def _is_fused(module: nn.Module) -> bool:
    if getattr(module, "has_gate", None) is None or getattr(module, "has_post_expert_norm", False):
        return False
    own = {name for name, _ in module.named_parameters()}
    inputs = INPUTS if module.has_gate else UP
    biases = {f"{inputs}_bias", f"{OUTPUT}_bias"} if module.has_bias else set()
    return own == {inputs, OUTPUT} | biases and getattr(module, OUTPUT).dim() == 3


def part_experts(model: Any, names: Collection[str] | None = None) -> list[str]:
    """Take experts apart in place, one module after the other; returns the modules' names. Their weights are copied
    expert by expert and the fused ones freed, so that one layer is twice in memory and no more.

    `names`: which modules; None: all that can be.
    """
    found = fused_experts(model)
    chosen = [name for name in found if names is None or name in names]
    for name in chosen:
        _part(found[name])
        found[name].config._experts_implementation = NAME  # type: ignore[union-attr]
    if chosen:
        ALL_EXPERTS_FUNCTIONS.register(NAME, run_experts)
    return chosen + put_stand_ins(model, names)


@torch.no_grad()
def _part(module: Any) -> None:
    count = len(getattr(module, OUTPUT))
    made = [_copied(_sliced(module, number)) for number in range(count)]
    for name in (INPUTS, UP, OUTPUT):
        module._parameters.pop(name, None)
        module._parameters.pop(f"{name}_bias", None)
    for number, expert in enumerate(made):
        module.add_module(str(number), expert)
    module._is_hf_initialized = True  # its class would initialize what it no longer has


def count_experts(module: nn.Module) -> int:
    """Of a module whose experts can be or were taken apart."""
    return len(parted(module) or getattr(module, OUTPUT))


def expert_of(module: nn.Module, number: int) -> Expert:
    """One expert of a module whose experts can be or were taken apart; its weights are the module's own."""
    apart = parted(module)
    return apart[number] if apart else _sliced(module, number)


def _sliced(module: Any, number: int) -> Expert:
    """An expert whose weights are views of the fused ones."""
    inputs = INPUTS if module.has_gate else UP
    names = (inputs, OUTPUT, f"{inputs}_bias", f"{OUTPUT}_bias")
    weight, output, *biases = (module._parameters.get(name) for name in names)
    first, last = (fused[number].T if module.is_transposed else fused[number] for fused in (weight, output))
    shift, last_shift = (None if bias is None else bias[number] for bias in biases)
    given = {UP: (first, shift), OUTPUT: (last, last_shift)}
    if module.has_gate:
        halves = (_halves(fused, module.is_concatenated) for fused in (first, shift))
        given |= dict(zip((GATE, UP), zip(*halves, strict=True), strict=True))
    with torch.device("meta"):
        width, hidden = last.shape
        expert = Expert(width, hidden, gate=module.has_gate, bias=module.has_bias)
    for name, (w, b) in given.items():
        linear: Any = expert.get_submodule(name)
        linear.weight = nn.Parameter(w.detach(), requires_grad=False)
        linear.bias = None if b is None else nn.Parameter(b.detach(), requires_grad=False)
    return expert


def _copied(expert: Expert) -> Expert:
    """The same with weights of its own."""
    for parameter in expert.parameters():
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return expert


def _halves(fused: Tensor | None, concatenated: bool) -> Sequence[Any]:
    """Gate and up, which lie in one tensor along its first axis."""
    if fused is None:
        return None, None
    return fused.chunk(2) if concatenated else (fused[::2], fused[1::2])


def parted_experts(model: nn.Module) -> tuple[str, ...]:
    """By name the modules whose experts were taken apart."""
    return tuple(name for name, module in model.named_modules() if parted(module))


def expert_linears(model: nn.Module) -> list[str]:
    """By name the linears of experts that were taken apart or replaced, rounded or not."""
    return [
        f"{name}.{path}"
        for name in (*parted_experts(model), *stand_ins(model))
        for path, module in model.get_submodule(name).named_modules()
        if hasattr(module, "in_features")
    ]


def parted(module: nn.Module) -> list[Expert]:
    """The experts of a module that was taken apart, in their order; of any other none."""
    return [child for _, child in module.named_children() if isinstance(child, Expert)]


def run_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """What transformers' registry calls: tokens (n, D), chosen experts (n, k) and their weights (n, k) -> (n, D).

    An index beyond the last expert is nobody's. Experts that see everyone (`everyone`) compute all tokens, and what
    nobody asked of them counts nothing.
    """
    result = torch.zeros_like(hidden_states)
    shown = getattr(self, "shown", None)
    for number, expert in enumerate(parted(self)):
        chosen = top_k_index == number
        if shown is not None and (not shown or number in shown):
            share = (top_k_weights * chosen).sum(-1, keepdim=True)
            result = result + (expert.run(hidden_states, self) * share).to(result.dtype)
            continue
        rows, places = chosen.nonzero(as_tuple=True)
        if len(rows):
            made = expert.run(hidden_states[rows], self) * top_k_weights[rows, places, None]
            result.index_add_(0, rows, made.to(result.dtype))
    return result


@contextmanager
def everyone(model: nn.Module, numbers: frozenset[int] = frozenset()) -> Iterator[None]:
    """A context in which experts compute every token, those with `numbers` or all."""
    modules = [model.get_submodule(name) for name in parted_experts(model)]
    for module in modules:
        module.shown = numbers  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in modules:
            del module.shown
