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
import transformers
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig

from sinkquant.errors import SinkquantError
from sinkquant.models.complete import check_complete
from sinkquant.models.source import weight_files
from sinkquant.runtime.config import SinkquantQuantization
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.loaded import REMEDY, check_stored
from sinkquant.runtime.modules import Apart, replace_module


def assemble(folder: Path, config: Any, auto: str, dtype: torch.dtype | str) -> Any | None:
    """The model in `folder`, whose `config` has our quantization, on the CPU: bit for bit what `from_pretrained` loads.

    transformers loads everything but the quantized linears, and those too whose tensors have other names in the files
    than in the model. None where its class `auto`, such as AutoModel, names no single class for the model.
    """
    named: Any = getattr(transformers, auto)._model_mapping.get(type(config), None)
    if named is None or isinstance(named, tuple):
        return None
    tensors = dict(_read(folder))
    quantization = SinkquantQuantization.from_dict(config.quantization_config)
    linears = {name for name, scheme in quantization.linears.items() if scheme.weight is not None}
    names = quantization.hub_names or {}
    own: dict[str, dict[str, Tensor]] = {}
    for name in list(tensors):
        module, _, leaf = name.rpartition(".")
        module = names.get(module, module)
        if module in linears:
            own.setdefault(module, {})[leaf] = tensors.pop(name)
    for name in [name for name, stored in own.items() if not {"weight", "weight_packed"} & stored.keys()]:
        tensors |= {f"{name}.{leaf}": tensor for leaf, tensor in own.pop(name).items()}  # the codes have another name
    config.quantization_config = {**config.quantization_config, "apart": list(own)}
    model, info = named.from_pretrained(
        None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
    )
    check_complete(str(folder), info, REMEDY, [key for key in info["missing_keys"] if key.rpartition(".")[0] in own])
    model.hf_quantizer.quantization_config.apart = frozenset()
    for name, stored in own.items():
        place = model.get_submodule(name)
        linear = place.held[0] if isinstance(place, Apart) else place
        _fill(str(folder), name, linear, stored)
        replace_module(model, name, linear)
    check_stored(model)
    model.name_or_path = model.config.name_or_path = str(folder)
    with suppress(OSError):  # without the file, the configuration's own values stay
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _fill(label: str, name: str, linear: QuantizedLinear, stored: dict[str, Tensor]) -> None:
    """Put exactly the tensors into `linear` that its scheme asks for, floats in its own types."""
    expected = linear.blank().state_dict()
    both = stored.keys() & expected.keys()
    wrong = [(f"{name}.{leaf}", stored[leaf].shape, expected[leaf].shape) for leaf in both]
    info = {
        "missing_keys": [f"{name}.{leaf}" for leaf in expected.keys() - stored.keys()],
        "unexpected_keys": [f"{name}.{leaf}" for leaf in stored.keys() - expected.keys()],
        "mismatched_keys": [entry for entry in wrong if entry[1] != entry[2]],
    }
    check_complete(label, info, REMEDY)
    for leaf, tensor in stored.items():
        asked = expected[leaf].dtype
        if tensor.dtype != asked and not (tensor.is_floating_point() and asked.is_floating_point):
            raise SinkquantError(f"{name}.{leaf} is stored as {tensor.dtype}, not as {asked}: {REMEDY}.")
        stored[leaf] = tensor.to(asked)
    linear.load_state_dict(stored, assign=True)


def _read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor by name, mapped from its file.

    Words are read, for a kernel may lay them out anew: mapped ones would stay in memory beside the new ones.
    """
    for file in weight_files(folder):
        with safe_open(file, "pt") as mapped, safe_open(file, "pt", backend="pread") as read:
            for name in mapped.keys():  # noqa: SIM118
                yield name, (read if name.endswith(".weight_packed") else mapped).get_tensor(name)
