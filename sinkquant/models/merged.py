"""Tensors that transformers puts together while loading, such as the experts of a layer."""

from __future__ import annotations

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION


def merges(model: PreTrainedModel) -> bool:
    """Whether loading `model` makes one tensor of several that the hub's checkpoints hold.

    With a quantization method of its own, transformers (5.23) then waits for the codes and scales of those tensors,
    whether they were quantized or not. Stored under the model's own names they are loaded as they are.
    """
    return any(isinstance(entry, WeightConverter) for entry in get_model_conversion_mapping(model, add_legacy=False))


def splits(model: PreTrainedModel) -> bool:
    """Whether loading `model` makes several tensors of one that some of the hub's checkpoints hold.

    transformers (5.23) adds codes and scales to the names on disk, and then refuses the rule, whether the model at hand
    has such a tensor or not.
    """
    rules = get_model_conversion_mapping(model, add_legacy=False)
    return any(isinstance(rule, WeightConverter) and len(rule.target_patterns) > 1 for rule in rules)


def divides(model: PreTrainedModel) -> bool:
    """Whether transformers takes some of the model's experts apart for a portable checkpoint, and so renames them."""
    return any(type(module).__name__ in MODULES_TO_PATCH_FOR_QUANTIZATION for module in model.modules())
