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
from transformers import AutoModelForCausalLM, PreTrainedModel

from sinkquant.errors import UsageError
from sinkquant.flow.plan import Plan, Shapes, reshaped
from sinkquant.models.merged import divides, merges
from sinkquant.models.record import run_probe, token_probe
from sinkquant.models.roles import Roles, Site
from sinkquant.recipes.schema import Recipe
from sinkquant.runtime.embedding import QuantizedEmbedding


def asked_by_stock(recipe: Recipe, model: Any, roles: Roles) -> frozenset[str]:
    """The linears whose float weight stock transformers looks for while it loads; packed ones have none.

    Raises UsageError where that is all of them, or where it would not find the experts.
    """
    if recipe.target != "portable":
        return frozenset()
    if divides(model):
        raise UsageError(
            "stock transformers takes the experts of this architecture apart when it loads a portable checkpoint, and "
            "experts in float do not follow: use a sink-aware recipe, such as --recipe w8a8-static or w4a8kv4."
        )
    if recipe.weights.bits >= 8:
        return frozenset()
    names = {name for block in roles.blocks for name in block.linears}
    asked = frozenset(initialized(model, names))
    if asked == names:
        raise UsageError(
            "stock transformers looks for the float weight of every linear of this architecture while it loads, which "
            "packed ones do not have: use --recipe w8a8, or a sink-aware recipe such as --recipe w4a8kv4."
        )
    return asked


def loadable(plan: Plan, model: Any, roles: Roles, shapes: Shapes, asked: frozenset[str]) -> Plan:
    """The plan that a loader can carry out; `asked` is what `asked_by_stock` found."""
    if plan.recipe.target == "sink-aware":
        return _embedding(plan, model, roles, shapes)
    sites = [site for block in roles.blocks for site in block.sites]
    plan = _leave_alone(plan, [site for site in sites if set(site.linears) & asked], shapes)
    if any(scheme.activation is not None and scheme.activation.mode == "dynamic" for scheme in plan.linears.values()):
        plan = _float_inputs(plan, flat_inputs(model, plan.linears), shapes)
    if merges(model):
        note = "what transformers merges while loading, such as experts, is stored merged: not all engines read that"
        plan = replace(plan, notes=(*plan.notes, note))
    return plan


def _embedding(plan: Plan, model: nn.Module, roles: Roles, shapes: Shapes) -> Plan:
    """It keeps its precision where 8-bit rows cannot stand for it, or where no parameter would be left beside it."""
    if roles.embedding is None or plan.bits[roles.embedding] == 16:
        return plan
    gone = {name for name, bits in plan.bits.items() if bits < 16}
    if not QuantizedEmbedding.fits(model.get_submodule(roles.embedding)):
        why = "it does more than to look up rows"
    elif all(name.rpartition(".")[0] in gone for name, _ in model.named_parameters()):
        why = "the model would have no parameter left, which transformers asks for dtype and device"
    else:
        return plan
    note = f"the embedding keeps its precision: {why}"
    return reshaped(plan, plan.linears, {**plan.bits, roles.embedding: 16}, shapes, note)


def _leave_alone(plan: Plan, sites: Iterable[Site], shapes: Shapes) -> Plan:
    names = [name for site in sites for name in site.linears if name in plan.linears]
    if not names:
        return plan
    linears = {**plan.linears} | {name: replace(plan.linears[name], weight=None, activation=None) for name in names}
    note = (
        f"{_some(names)} stay in float: transformers looks for their weights while it loads, and packed ones have none"
    )
    return reshaped(plan, linears, {**plan.bits, **dict.fromkeys(names, 16)}, shapes, note)


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
        run_probe(model, token_probe(model), own=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def initialized(model: Any, names: Collection[str]) -> set[str]:
    """Which of the linears have a weight that their family initializes, as a loader does with what is missing.

    Tried on an empty copy of the model: without its `weight`, such a linear makes that initialization fail.
    """
    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(model.config)
    found = set()
    for name in names:
        linear = empty.get_submodule(name)
        weight = linear.weight
        del linear.weight
        fails = _fails(empty, name)
        linear.weight = weight
        if fails and not _fails(empty, name):
            found.add(name)
    return found


def _fails(model: Any, name: str) -> bool:
    """Whether the module `name` or one around it cannot be initialized for want of an attribute."""
    parts = name.split(".")
    paths = [".".join(parts[:length]) for length in range(len(parts) + 1)]
    owner = model
    try:
        for module in map(model.get_submodule, paths):
            owner = module if isinstance(module, PreTrainedModel) else owner  # initializes what lies below it
            owner._init_weights(module)
    except AttributeError:
        return True
    return False
