"""The tensors of quantized linears put into their modules all at once.

`from_pretrained` prepares a conversion for every tensor by itself; with scales beside every weight of a small model,
that takes longer than reading them.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, GenerationConfig


def assemble(folder: Path, config: Any, dtype: torch.dtype | str) -> Any | None:
    """The model in `folder`, whose `config` has our quantization, on the CPU: bit for bit what `from_pretrained` loads.

    transformers loads everything but the quantized linears. None where it does not name a class for the model.
    """
    named: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if named is None or isinstance(named, tuple):
        return None
    tensors = {name: x for file in sorted(folder.glob("*.safetensors")) for name, x in load_file(file).items()}
    groups = config.quantization_config["linears"]
    linears = {name for group in groups if group["scheme"]["weight"] for name in group["targets"]}
    own = {name: tensors.pop(name) for name in list(tensors) if name.rpartition(".")[0] in linears}
    model = named.from_pretrained(None, config=config, state_dict=tensors, dtype=dtype)
    empty = model.state_dict()
    model.load_state_dict({name: x.to(empty[name].dtype) for name, x in own.items()}, strict=False, assign=True)
    model.name_or_path = model.config.name_or_path = str(folder)
    with suppress(OSError):  # without the file, the configuration's own values stay
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model
