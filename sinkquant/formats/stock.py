"""What stock transformers and compressed-tensors ask of a model that becomes a portable checkpoint.

Dynamic inputs and packed weights do not fit every linear.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from sinkquant.formats.format import Change, Planned
from sinkquant.inputs.batches import Batch
from sinkquant.models.merged import divides, merges, splits
from sinkquant.models.roles import Roles
from sinkquant.models.stubs import call_model
from sinkquant.quantization.scheme import LinearScheme


def refuses(recipe: Any, model: Any, roles: Roles) -> str | None:
    """A sentence where packed weights have no place, or float ones are looked for."""
    if roles.own_linears:
        return (
            "linears of this architecture have a class of their own (as GPT-2's Conv1D), where stock loaders put no "
            "packed weights: use a sink-aware recipe, such as --recipe w8a8-static or w4a8kv4."
        )
    if divides(model):
        return (
            "stock transformers takes the experts of this architecture apart when it loads a portable checkpoint, and "
            "experts in float do not follow: use a sink-aware recipe, such as --recipe w8a8-static or w4a8kv4."
        )
    if splits(model):
        return (
            "stock transformers splits fused weights of this architecture while it loads, and cannot do it with packed "
            "ones: use a sink-aware recipe, such as --recipe w8a8-static or w8a8-npu."
        )
    names = {name for block in roles.blocks for name in block.linears}
    if names and _asked(recipe, model, names) == names:
        return (
            "stock transformers looks for the float weight of every linear of this architecture while it loads, which "
            "packed ones do not have: use --recipe w8a8, or a sink-aware recipe such as --recipe w4a8kv4."
        )
    return None


def changes(plan: Planned, model: Any, roles: Roles, probe: Batch) -> Iterator[Change]:
    """What stays in float, wholly or in its inputs."""
    linears = dict(plan.linears)
    asked = _asked(plan.recipe, model, linears)
    sites = [site for block in roles.blocks for site in block.sites if set(site.linears) & asked]
    names = [name for site in sites for name in site.linears if name in linears]
    if names:
        floats = {name: replace(linears[name], weight=None, activation=None) for name in names}
        linears |= floats
        why = "transformers looks for their weights while it loads, and packed ones have none"
        yield Change(f"{_some(names)} stay in float: {why}", floats, dict.fromkeys(names, 16))
    if any(scheme.activation is not None and scheme.activation.mode == "dynamic" for scheme in linears.values()):
        flat = flat_inputs(model, linears, probe)
        if flat:
            why = "they get (tokens, width) or heads apart, for which compressed-tensors finds no scale a token"
            note = f"{_some(flat)} keep their inputs in float: {why}"
            yield Change(note, {name: _packed(linears[name]) for name in flat})
    if probe.method is not None:
        yield Change(f"stock transformers unpacks weights when the whole is called: do so once before {probe.method}")
    if merges(model):
        yield Change(
            "what transformers merges while loading, such as experts, is stored merged: not all engines read that"
        )


def _packed(scheme: LinearScheme) -> LinearScheme:
    """With inputs in float, for which engines want 8-bit weights packed."""
    weight = replace(scheme.weight, words=scheme.weight.bits == 8) if scheme.weight is not None else None
    return replace(scheme, weight=weight, activation=None)


def _asked(recipe: Any, model: Any, names: Collection[str]) -> set[str]:
    """The linears whose float weight stock transformers looks for while it loads; packed ones have none."""
    return initialized(model, names) if recipe.weights.bits < 8 else set()


def _some(names: Collection[str]) -> str:
    first = next(iter(names))
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"


@torch.no_grad()
def flat_inputs(model: Any, names: Collection[str], probe: Batch) -> set[str]:
    """Which of the linears get an input that is not (batch, tokens, width)."""
    found: set[str] = set()

    def look(name: str) -> Any:
        return lambda _module, args: found.add(name) if args[0].dim() != 3 else None

    hooks = [model.get_submodule(name).register_forward_pre_hook(look(name)) for name in names]
    try:
        call_model(model, probe)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def initialized(model: Any, names: Collection[str]) -> set[str]:
    """Which of the linears have a weight that their family initializes, as a loader does with what is missing.

    Tried on an empty copy of the model: without its `weight`, such a linear makes that initialization fail.
    """
    with torch.device("meta"):
        empty: Any = type(model)(deepcopy(model.config))
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
