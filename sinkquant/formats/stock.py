"""What stock transformers and compressed-tensors ask of a model that becomes a portable checkpoint.

Dynamic inputs and packed weights do not fit every linear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from sinkquant.formats.format import Change, Planned
from sinkquant.inputs.batches import Batch
from sinkquant.models.experts import expert_linears, fused_experts
from sinkquant.models.merged import merges, splits
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
    if splits(model):
        return (
            "stock transformers splits fused weights of this architecture while it loads, and cannot do it with packed "
            "ones: use a sink-aware recipe, such as --recipe w8a8-static or w8a8-npu."
        )
    names = {name for block in roles.blocks for name in block.linears} - set(expert_linears(model))
    if names and _asked(recipe, model, names) == names:
        return (
            "stock transformers looks for the float weight of every linear of this architecture while it loads, which "
            "packed ones do not have: use --recipe w8a8, or a sink-aware recipe such as --recipe w4a8kv4."
        )
    return None


def changes(plan: Planned, model: Any, roles: Roles, probe: Batch) -> Iterator[Change]:
    """What stays in float, wholly or in its inputs, and what experts agree on."""
    linears = dict(plan.linears)
    experts = [name for name in expert_linears(model) if name in linears]
    asked = _asked(plan.recipe, model, linears.keys() - set(experts))
    sites = [site for _, site in roles.linears if set(site.linears) & asked]
    names = [name for site in sites for name in site.linears if name in linears]
    if names:
        floats = {name: replace(linears[name], weight=None, activation=None) for name in names}
        linears |= floats
        why = "transformers looks for their weights while it loads, and packed ones have none"
        yield Change(f"{_some(names)} stay in float: {why}", floats, dict.fromkeys(names, 16))
    if experts:
        alike = _alike(linears, experts)
        linears |= alike.linears
        yield alike
    dense = [name for name in linears if name not in experts]
    if any((scheme := linears[name].activation) is not None and scheme.mode == "dynamic" for name in dense):
        flat = flat_inputs(model, dense, probe)
        if flat:
            why = "they get (tokens, width) or heads apart, for which compressed-tensors finds no scale a token"
            note = f"{_some(flat)} keep their inputs in float: {why}"
            yield Change(note, {name: _packed(linears[name]) for name in flat})
    if probe.method is not None:
        yield Change(f"stock transformers unpacks weights when the whole is called: do so once before {probe.method}")
    if merges(model) and (not experts or fused_experts(model)):
        yield Change(
            "what transformers merges while loading, such as experts, is stored merged: not all engines read that"
        )


def left_out(model: Any, name: Callable[[str], str]) -> tuple[str, ...]:
    """What stays in float and an engine may take for something that was rounded: linears, routers and whatever else
    has a matrix of its own, experts that are fused. With the `name` on disk where it is another."""
    found = [own for own, module in model.named_modules() if _may_be_rounded(module)]
    both = (one for own in found for one in (own, name(f"{own}.weight").removesuffix(".weight")))
    return (*dict.fromkeys(both), *(rf"re:{re.escape(own)}\..*" for own in fused_experts(model)))


def _may_be_rounded(module: nn.Module) -> bool:
    if any(kind.__name__ == "Linear" for kind in type(module).__mro__):  # by that name compressed-tensors knows them
        return True
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.dim() == 2 and not isinstance(module, nn.Embedding)


def _alike(linears: Mapping[str, LinearScheme], experts: Sequence[str]) -> Change:
    """Experts with one scheme, as loaders want them: the smallest groups of any, inputs in float."""
    sizes = {scheme.weight.group_size for name in experts if (scheme := linears[name]).weight is not None}
    note = "experts are stored one by one, packed; stock transformers unpacks and merges them while it loads"
    if any(linears[name].activation is not None for name in experts):
        note += ", so that their inputs stay in float"
    if len(sizes) > 1:
        note += "; groups are as large as the smallest of their layers allows"
    size = min(sizes, key=lambda size: size or 0)
    return Change(note, {name: _in_groups(_packed(linears[name]), size) for name in experts})


def _in_groups(scheme: LinearScheme, size: int | None) -> LinearScheme:
    return scheme if scheme.weight is None else replace(scheme, weight=replace(scheme.weight, group_size=size))


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
