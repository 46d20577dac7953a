"""What of a plan gives way to those who will load its checkpoint, decided before any work.

Sink-aware checkpoints are loaded by us, so that little is asked of them. Portable ones are run by compressed-tensors,
whose dynamic inputs and packed weights do not fit every linear.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from sinkquant.api.plan import Plan, Shapes, reshaped
from sinkquant.errors import UsageError
from sinkquant.models.merged import merges
from sinkquant.models.record import run_tokens
from sinkquant.models.roles import Roles, Site


def loadable(plan: Plan, model: Any, roles: Roles, shapes: Shapes) -> Plan:
    """The plan that a loader can carry out. Raises UsageError where nothing would be left of it."""
    if plan.recipe.target == "sink-aware":
        return _keep_a_parameter(plan, model, roles, shapes)
    packed = {n for n, s in plan.linears.items() if s.weight is not None and s.weight.packed}
    asked = initialized_by_parents(model, packed)
    sites = [site for block in roles.blocks for site in block.sites]
    plan = _leave_alone(plan, [site for site in sites if set(site.linears) & asked], shapes)
    if any(scheme.activation is not None and scheme.activation.mode == "dynamic" for scheme in plan.linears.values()):
        plan = _float_inputs(plan, flat_inputs(model, plan.linears), shapes)
    if merges(model):
        plan = replace(
            plan,
            notes=(
                *plan.notes,
                "tensors that transformers merges while loading, such as experts, are "
                "stored merged, which serving engines may not read",
            ),
        )
    return plan


def _keep_a_parameter(plan: Plan, model: nn.Module, roles: Roles, shapes: Shapes) -> Plan:
    """transformers asks the first parameter for dtype and device; quantized modules hold buffers."""
    gone = {n for n, bits in plan.bits.items() if bits < 16}
    places = (name.rpartition(".") for name, _ in model.named_parameters())
    if roles.embedding not in gone or any(module not in gone for module, _, _ in places):
        return plan
    note = "the embedding keeps its precision: the model would have no parameter left, which transformers asks for"
    return reshaped(plan, plan.linears, {**plan.bits, roles.embedding: 16}, shapes, note)


def _leave_alone(plan: Plan, sites: Iterable[Site], shapes: Shapes) -> Plan:
    names = [name for site in sites for name in site.linears if name in plan.linears]
    if not names:
        return plan
    linears = plan.linears | {name: replace(plan.linears[name], weight=None, activation=None) for name in names}
    if not any(scheme.weight for scheme in linears.values()):
        raise UsageError(
            "stock transformers looks for the float weight of every linear here while it loads: use a sink-aware "
            "recipe, such as --recipe w8a8-static, or --recipe w8a8."
        )
    note = (
        f"{_some(names)} stay in float: transformers looks for their weights while it loads, and packed ones have none"
    )
    return reshaped(plan, linears, plan.bits | dict.fromkeys(names, 16), shapes, note)


def _float_inputs(plan: Plan, names: Collection[str], shapes: Shapes) -> Plan:
    """8-bit weights whose inputs stay in float are packed, as engines want them."""
    if not names:
        return plan
    linears = dict(plan.linears)
    for name in names:
        scheme = linears[name]
        weight = replace(scheme.weight, words=scheme.weight.bits == 8) if scheme.weight is not None else None
        linears[name] = replace(scheme, weight=weight, activation=None)
    note = (
        f"{_some(names)} keep their inputs in float: they get (tokens, width) or heads apart, for which "
        "compressed-tensors finds no scale a token"
    )
    return reshaped(plan, linears, plan.bits, shapes, note)


def _some(names: Collection[str]) -> str:
    first = next(iter(names))
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"


def flat_inputs(model: nn.Module, names: Collection[str]) -> set[str]:
    """Which of the linears get an input that is not (batch, tokens, width)."""
    found: set[str] = set()

    def look(name: str) -> Any:
        return lambda _module, args: found.add(name) if args[0].dim() != 3 else None

    hooks = [model.get_submodule(name).register_forward_pre_hook(look(name)) for name in names]
    try:
        run_tokens(model, own=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def initialized_by_parents(model: Any, names: Collection[str]) -> set[str]:
    """Which of the linears have a weight that a module around them initializes, as a loader does for what is missing.

    Tried on an empty copy of the model: without its `weight`, such a linear makes that initialization fail.
    """
    if not names:
        return set()
    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(model.config)
    found = set()
    for name in names:
        linear = empty.get_submodule(name)
        weight = linear.weight
        del linear.weight
        try:
            for parent in _around(name):
                empty._init_weights(empty.get_submodule(parent))
        except AttributeError:
            found.add(name)
        linear.weight = weight
    return found


def _around(name: str) -> list[str]:
    """Paths of the modules around a module, the closest first."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
