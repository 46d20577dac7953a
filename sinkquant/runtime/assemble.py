"""The tensors of quantized linears put into their modules all at once.

`from_pretrained` prepares a conversion for every tensor by itself, and a place for every one that it does not find;
with scales beside every weight of a small model, that takes longer than reading them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, GenerationConfig

from sinkquant.models.source import weight_files
from sinkquant.runtime.config import SinkquantQuantization
from sinkquant.runtime.modules import Apart, replace_module


def assemble(folder: Path, config: Any, dtype: torch.dtype | str) -> Any | None:
    """The model in `folder`, whose `config` has our quantization, on the CPU: bit for bit what `from_pretrained` loads.

    transformers loads everything but the quantized linears, and those too whose tensors have other names in the files
    than in the model. None where it does not name a class for the model.
    """
    named: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if named is None or isinstance(named, tuple):
        return None
    tensors = dict(_read(folder))
    quantization = SinkquantQuantization.from_dict(config.quantization_config)
    linears = {name for name, scheme in quantization.linears.items() if scheme.weight is not None}
    own: dict[str, dict[str, Tensor]] = {}
    for name in list(tensors):
        module, _, leaf = name.rpartition(".")
        if module in linears:
            own.setdefault(module, {})[leaf] = tensors.pop(name)
    for name in [name for name, stored in own.items() if not {"weight", "weight_packed"} & stored.keys()]:
        tensors |= {f"{name}.{leaf}": tensor for leaf, tensor in own.pop(name).items()}  # the codes have another name
    config.quantization_config = {**config.quantization_config, "apart": list(own)}
    model = named.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype)
    model.hf_quantizer.quantization_config.apart = frozenset()
    for name, stored in own.items():
        place = model.get_submodule(name)
        linear = place.held[0] if isinstance(place, Apart) else place
        empty = linear.state_dict()
        linear.load_state_dict({leaf: x.to(empty[leaf].dtype) for leaf, x in stored.items()}, assign=True)
        replace_module(model, name, linear)
    model.name_or_path = model.config.name_or_path = str(folder)
    with suppress(OSError):  # without the file, the configuration's own values stay
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by name, mapped from its file.

    Words are read, for a kernel may lay them out anew: mapped ones would stay in memory beside the new ones.
    """
    for file in weight_files(folder):
        with safe_open(file, "pt") as mapped, safe_open(file, "pt", backend="pread") as read:
            for name in mapped.keys():  # noqa: SIM118
                yield name, (read if name.endswith(".weight_packed") else mapped).get_tensor(name)
