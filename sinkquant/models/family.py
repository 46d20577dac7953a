"""What the files of a model hold beside what one of its classes takes: the heads of its family's other classes."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
import transformers

BASE, PRETRAINED = "AutoModel", "AutoModelForPreTraining"


def without_other_heads(model: Any, auto: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """The loading info of transformers without what is right as it is, for the class `auto` that loaded `model`.

    Left over may be heads that the class in config.json, or the one for pretraining, has. Missing may be what a base
    class has beside its blocks and the class in config.json has not, such as the pooler of a masked language model: it
    becomes zeros.
    """
    unexpected, missing = set(info["unexpected_keys"]), set(info["missing_keys"])
    if unexpected:
        unexpected -= _names(model, _class(PRETRAINED, model)) | _names(model, _stated(model))
    stated = _stated(model)
    if missing and auto == BASE and stated is not None and stated is not type(model):
        prefix = f"{model.base_model_prefix}."
        known = {name.removeprefix(prefix) for name in _names(model, stated)}
        blank = missing - known
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in blank:
                    parameter.zero_()
        missing -= blank
    return {**info, "unexpected_keys": unexpected, "missing_keys": missing}


def _stated(model: Any) -> Any:
    """The class that config.json names."""
    names = model.config.architectures or [None]
    return getattr(transformers, names[0], None) if isinstance(names[0], str) else None


def _class(auto: str, model: Any) -> Any:
    found = getattr(transformers, auto)._model_mapping.get(type(model.config), None)
    return None if isinstance(found, tuple) else found


def _names(model: Any, cls: Any) -> set[str]:
    if cls is None:
        return set()
    with torch.device("meta"):
        return set(cls(deepcopy(model.config)).state_dict())
