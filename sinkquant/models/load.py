"""Configuration, tokenizer and float weights of any source, by transformers, quietly and never partly random."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any
from unittest import mock

import torch
import transformers
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.models.source import Source, local_folder, weight_files

MODEL_REMEDY = "give a causal language model that this version knows"


def load_model(
    source: Source,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The causal language model of `source` in `dtype` on `device`, in evaluation mode; a GGUF file is dequantized.

    Raises UsageError for remote code that is not trusted and for a model that is quantized already, SinkquantError for
    weights that are damaged, incomplete or of another shape.
    """
    folder = _checked_folder(source, trust_remote_code)
    options = _where(source, trust_remote_code) | {
        "dtype": dtype,
        "use_safetensors": True,
        "output_loading_info": True,
        # Shapes that differ pass here because the loading info names them, unlike the error of transformers.
        "ignore_mismatched_sizes": True,
    }
    if source.gguf_file is None:
        _check_readable(weight_files(folder))
    elif hasattr(transformers, "GgufConfig"):  # versions without it always dequantize
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with quiet(), _one_sentence(source.label, MODEL_REMEDY):
        loaded: Any = AutoModelForCausalLM.from_pretrained(**options)
        model, info = loaded
        _check_complete(source, info)
        return model.to(device)


def load_tokenizer(source: Source, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of `source`; one in a GGUF file is rebuilt from its vocabulary and merges."""
    _checked_folder(source, trust_remote_code)
    remedy = "the files of its tokenizer must lie beside its weights"
    with quiet(), _one_sentence(f"the tokenizer of {source.label}", remedy):
        return AutoTokenizer.from_pretrained(**_where(source, trust_remote_code))


def load_config(source: Source, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The transformers configuration of `source`; the same models are refused as in `load_model`."""
    _checked_folder(source, trust_remote_code)
    with quiet(), _one_sentence(source.label, MODEL_REMEDY):
        return AutoConfig.from_pretrained(**_where(source, trust_remote_code))


def _where(source: Source, trust_remote_code: bool) -> dict[str, Any]:
    """The arguments by which every from_pretrained finds the source."""
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": source.location,
        "trust_remote_code": trust_remote_code,
        # The files are here by now; asking the hub again could mix two states of it.
        "local_files_only": True,
    }
    return where if source.gguf_file is None else where | {"gguf_file": source.gguf_file}


def _checked_folder(source: Source, trust_remote_code: bool) -> Path:
    """The folder of the source's files, after a look at config.json that runs no code."""
    folder = local_folder(source, with_code=trust_remote_code)
    if source.gguf_file is not None:
        return folder
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        quantized, code = config.get("quantization_config"), config.get("auto_map")
    except (OSError, ValueError, AttributeError) as error:
        raise SinkquantError(
            f"{source.label} has no readable config.json: copy or download the model again."
        ) from error
    if quantized:
        method = quantized.get("quant_method", "an unnamed method")
        raise UsageError(f"{source.label} is quantized already ({method}): give the float model that it was made from.")
    if code and not trust_remote_code:
        raise UsageError(
            f"{source.label} brings Python code that would run on this machine: read it, "
            "then allow it with --trust-remote-code."
        )
    return folder


def _check_readable(files: Iterable[Path]) -> None:
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass  # opening compares the header with the file's size
        except (SafetensorError, OSError) as error:
            raise SinkquantError(
                f"{file.name} is damaged or incomplete ({error}): copy or download it again."
            ) from error


def _check_complete(source: Source, info: dict[str, Any]) -> None:
    """Refuse a model that transformers has filled up with random weights; tied weights are not among the missing."""
    for name, stored, expected in sorted(info["mismatched_keys"]):
        raise SinkquantError(
            f"{source.label} stores {name} as {tuple(stored)} where its config.json asks for {tuple(expected)}: "
            "weights and config.json must come from the same model."
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise SinkquantError(
            f"{source.label} lacks {len(missing)} weights, the first is {missing[0]}: "
            "give a complete causal language model."
        )


@contextmanager
def _one_sentence(what: str, remedy: str) -> Iterator[None]:
    """Whatever transformers raises about the files, as one sentence."""
    try:
        yield
    except SinkquantError:
        raise
    except Exception as error:  # no narrower class covers what from_pretrained and the model files can raise
        reason = shorten(" ".join(str(error).split()).split(". ")[0].rstrip("."), 200) or type(error).__name__
        raise SinkquantError(
            f"transformers {transformers.__version__} cannot load {what} ({reason}): {remedy}."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars and reports of transformers and compressed-tensors off the terminal; both come back afterwards."""
    verbosity = logging.get_verbosity()
    start = tqdm.__init__

    def disabled(bar: Any, *args: Any, **options: Any) -> None:
        start(bar, *args, **(options | {"disable": True}))

    logging.set_verbosity_error()
    try:
        # Neither the GGUF reader nor compressed-tensors asks anyone before it draws a bar.
        with mock.patch.object(tqdm, "__init__", disabled):
            yield
    finally:
        logging.set_verbosity(verbosity)
