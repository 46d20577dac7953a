"""Write a model's tensors, configuration and side files into a folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from sinkquant.models.json_file import read_object
from sinkquant.models.load import load_tokenizer, quiet
from sinkquant.models.side_files import code_files, side_files
from sinkquant.models.source import Source, local_folder
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.linear import QuantizedLinear


def linear_schemes(model: nn.Module) -> dict[str, LinearScheme]:
    """Of every linear that was quantized, by name."""
    return {name: module.scheme for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def round_floats(model: nn.Module, dtype: torch.dtype) -> None:
    """Round every float parameter through the stored dtype, so that memory and disk hold the same numbers.

    What a class lists as not saved, such as sines of positions, is made anew in full precision where it is loaded.
    """
    made = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_save", None) or ()]
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not any(pattern.search(name) for pattern in made):
            parameter.data = parameter.data.to(dtype).to(parameter.dtype)


def save_model(
    model: PreTrainedModel, folder: Path, dtype: torch.dtype, shard_size: str, *,
    on_disk: Callable[[str], str] | None = None,
) -> None:  # fmt: skip
    """Sharded safetensors and config.json. Parameters are stored in `dtype`, scales and prefix as they are.

    `on_disk`: gives the names on disk for those in the model, in place of what transformers does for the family.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    casts: dict[int, Tensor] = {}  # tied tensors stay one tensor, which is then stored once
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name in parameters and tensor.is_floating_point():
            key = tensor.data_ptr()
            casts[key] = casts[key] if key in casts else tensor.to(dtype)
            tensor = casts[key]
        state[name] = tensor
    if on_disk is not None:
        state = {on_disk(own): tensor for own, tensor in remove_tied_weights_from_state_dict(state, model).items()}
    with quiet():
        model.save_pretrained(folder, state_dict=state, max_shard_size=shard_size, save_original_format=on_disk is None)
        model.config.dtype = dtype  # transformers states the dtype in memory
        model.config.save_pretrained(folder)


def copy_side_files(source: Source, folder: Path) -> None:
    """Tokenizer, chat templates, generation settings, licence: byte for byte, with the code of a model that is trusted.

    A GGUF's tokenizer is written out as files.
    """
    if source.gguf_file is not None:
        load_tokenizer(source).save_pretrained(folder)
        return
    home = local_folder(source)
    for path in (*side_files(home), *(code_files(home) if source.trusted else ())):
        place = folder / path.relative_to(home)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)


def shorten_texts(folder: Path, places: int) -> None:
    """The tokenizer truncates texts to `places` tokens, or to fewer."""
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return
    fields = read_object(settings, "copy or download the model again")
    if fields.get("model_max_length", places) > places:
        fields["model_max_length"] = places
        settings.write_text(json.dumps(fields, indent=2, ensure_ascii=False), encoding="utf-8")
