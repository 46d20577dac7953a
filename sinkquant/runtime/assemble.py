"""The tensors of quantized linears put into their modules all at once.

`from_pretrained` prepares a conversion for every tensor by itself; with scales beside every weight of a small model,
that takes longer than reading them.
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


def assemble(folder: Path, config: Any, dtype: torch.dtype | str) -> Any | None:
    """The model in `folder`, whose `config` has our quantization, on the CPU: bit for bit what `from_pretrained` loads.

    transformers loads everything but the quantized linears. None where it does not name a class for the model.
    """
    named: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if named is None or isinstance(named, tuple):
        return None
    tensors = dict(_read(folder))
    schemes = SinkquantQuantization.from_dict(config.quantization_config).linears
    linears = {name for name, scheme in schemes.items() if scheme.weight is not None}
    own = {name: tensors.pop(name) for name in list(tensors) if name.rpartition(".")[0] in linears}
    model = named.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype)
    empty = model.state_dict()
    model.load_state_dict({name: x.to(empty[name].dtype) for name, x in own.items()}, strict=False, assign=True)
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
