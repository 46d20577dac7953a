"""Tensors that transformers puts together while loading, such as the experts of a layer, and their names on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
)

from sinkquant.models.experts import GATE, INPUTS, OUTPUT, UP, fused_experts
from sinkquant.models.stand_ins import replaceable

LINEARS = {INPUTS: (GATE, UP), UP: (UP,), OUTPUT: (OUTPUT,)}  # what a fused parameter of experts is merged from


def merges(model: PreTrainedModel) -> bool:
    """Whether loading `model` makes one tensor of several that the hub's checkpoints hold.

    With a quantization method of its own, transformers (5.23) then waits for the codes and scales of those tensors,
    whether they were quantized or not. Stored under the model's own names they are loaded as they are.
    """
    return any(isinstance(rule, WeightConverter) for rule in _rules(model))


def splits(model: PreTrainedModel) -> bool:
    """Whether loading `model` makes several tensors of one that some of the hub's checkpoints hold.

    transformers (5.23) adds codes and scales to the names on disk, and then refuses the rule, whether the model at hand
    has such a tensor or not.
    """
    return any(isinstance(rule, WeightConverter) and len(rule.target_patterns) > 1 for rule in _rules(model))


def stored_apart(model: PreTrainedModel) -> list[str]:
    """Names of the modules of fused experts that the hub's checkpoints hold expert by expert, as linears without bias:
    transformers unpacks those one by one, and merges them."""
    merging = [rule.reverse_transform() for rule in _rules(model) if _experts_of(rule)]
    return [
        name
        for name, module in fused_experts(model).items()
        if not module.is_transposed
        and (module.is_concatenated or not module.has_gate)
        and all(
            any(rule.rename_source_key(f"{name}.{own}")[1] is not None for rule in merging)
            for own, _ in module.named_parameters()
        )
    ]


def names_apart(rules: Iterable[WeightTransform]) -> list[WeightRenaming]:
    """Of transformers' `rules` for a model those that only rename, and for experts that were taken apart the names of
    every one in place of the merge."""
    rules = list(rules)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    return [*renamings, *(made for rule in rules for made in _each_expert(rule))]


def stored_names(model: PreTrainedModel) -> Callable[[str], str]:
    """What tensors of a model with experts taken apart are called on the hub, by their name in the model.

    What transformers would merge and is not taken apart keeps its name, under which it is loaded as it is.
    """
    # A prefix that some of the hub's checkpoints have and others have not is left out, as transformers does.
    rules = [rule for rule in _rules(model) if not isinstance(rule, PrefixChange)]
    merging = [rule.reverse_transform() for rule in rules[::-1] if isinstance(rule, WeightConverter)]
    renaming = [rule.reverse_transform() for rule in names_apart(rules)[::-1]]

    def name(own: str) -> str:
        if any(rule.rename_source_key(own)[1] is not None for rule in merging):
            return own
        return _renamed(own, renaming)

    return name


def other_heads(names: Iterable[str], on_disk: Callable[[str], str]) -> dict[str, str]:
    """How names of linears begin on disk where they begin otherwise in the model, and how there."""
    found = {}
    for name in names:
        own, stored = name.split("."), on_disk(f"{name}.weight").removesuffix(".weight").split(".")
        while len(own) > 1 and len(stored) > 1 and own[-1] == stored[-1]:
            own, stored = own[:-1], stored[:-1]
        if own != stored:
            found[".".join(stored)] = ".".join(own)
    return found


def names_in_model(config: Any, auto: str, stored: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What modules that a checkpoint holds are called in the model, with its experts apart, by their `stored` name; and
    the modules whose experts are stored one by one.

    `auto`: the class that makes a model of `config`, such as AutoModelForCausalLM; it is made without memory.
    """
    with torch.device("meta"):
        model = getattr(transformers, auto).from_config(config)
    rules = names_apart(_rules(model))
    names = {name: _renamed(f"{name}.weight", rules).removesuffix(".weight") for name in stored}
    held = {own.rsplit(".", 2)[0] for own in names.values() if own.count(".") > 1}
    return names, tuple(name for name in (*stored_apart(model), *replaceable(model)) if name in held)


def _rules(model: PreTrainedModel) -> list[WeightTransform]:
    return get_model_conversion_mapping(model, add_legacy=False)


def _renamed(name: str, rules: Sequence[WeightTransform]) -> str:
    for rule in rules:
        name, _ = rule.rename_source_key(name)
    return name


def _experts_of(rule: WeightTransform) -> tuple[str, ...]:
    """The linears of an expert that the rule merges over all experts, in the order of its sources; () for others."""
    if not isinstance(rule, WeightConverter) or len(rule.target_patterns) != 1:
        return ()
    steps = [MergeModulelist, Concatenate][: len(rule.source_patterns)]
    linears = LINEARS.get(rule.target_patterns[0].rpartition(".")[2], ())
    fits = len(rule.source_patterns) == len(linears) and [type(step) for step in rule.operations] == steps
    each = all(".*." in source and source.endswith(".weight") for source in rule.source_patterns)
    return linears if fits and each else ()


def _each_expert(rule: WeightTransform) -> list[WeightRenaming]:
    """`experts.*.w1.weight`, `experts.*.w3.weight` → `experts.gate_up_proj` as `experts.N.w1.` → `experts.N.gate_proj.`
    and so on."""
    made = []
    for source, linear in zip(rule.source_patterns, _experts_of(rule), strict=False):
        home = rule.target_patterns[0].rpartition(".")[0]
        stored = source.removesuffix(".weight").replace(".*.", r"\.(\d+)\.") + r"\."
        renaming = WeightRenaming(stored, rf"{home}.\1.{linear}.")
        renaming.scope_prefix, renaming.base_model_prefix = rule.scope_prefix, rule.base_model_prefix
        made.append(renaming)
    return made
