"""Configuration, tokenizer and float weights of any source, by transformers, quietly and never partly random."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from threading import RLock, get_ident
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from sinkquant.errors import SinkquantError, UsageError, out_of_memory
from sinkquant.models.complete import check_complete
from sinkquant.models.ends import embedding_of, head_of
from sinkquant.models.family import without_other_heads
from sinkquant.models.side_files import brings_code
from sinkquant.models.source import Source, local_folder, refuse_adapter, weight_files
from sinkquant.models.task import refuse_other_tasks
from sinkquant.models.transposed import with_linears

CAUSAL = "AutoModelForCausalLM"
_ALONE = RLock()
MODEL_REMEDY = "config.json and weights must belong together and suit this version"
GGUF_REMEDY = "give the transformers folder that the file was made from"
CONFIG_REMEDY = "correct it, copy the model again, or update transformers if it is newer than that"


def load_model(
    source: Source,
    *,
    auto: str = CAUSAL,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """The model of `source` in `dtype` on `device`, in evaluation mode; a GGUF file is dequantized.

    `auto`: the name of the class of transformers that loads it.

    Raises UsageError for remote code that is not trusted and for a model that is quantized already, SinkquantError for
    weights that are damaged, incomplete or of another shape.
    """
    folder = _checked_folder(source)
    if source.gguf_file is None:
        load_config(source, auto)
    options = _where(source) | {
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
    with quiet(), in_one_sentence(source.label, MODEL_REMEDY if source.gguf_file is None else GGUF_REMEDY):
        loaded: Any = getattr(transformers, auto).from_pretrained(**options)
        model, info = loaded
        if auto != CAUSAL:
            info = without_other_heads(model, auto, info)
        check_complete(source.label, info, "give a complete model")
    _own_head(model)
    with_linears(model)
    return model.to(device)


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer of `source`; one in a GGUF file is rebuilt from its vocabulary and merges."""
    what, remedy = f"the tokenizer of {source.label}", "the files of its tokenizer must lie beside its weights"
    if source.gguf_file is None:  # a broken config.json is no fault of the tokenizer's
        load_config(source)
    else:
        what, remedy = source.label, GGUF_REMEDY
    with quiet(), in_one_sentence(what, remedy):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**_where(source))
        empty = not tokenizer("A text of 12 words.", add_special_tokens=False)["input_ids"]
    if empty:
        raise SinkquantError(f"the tokenizer of {source.label} makes no tokens of a text: {remedy}.")
    return tokenizer


def load_processor(source: Source, auto: str) -> Any:
    """What turns images or sound into tensors; `auto`: the class of transformers that loads it."""
    load_config(source)
    remedy = "the files of its processor must lie beside its weights"
    with quiet(), in_one_sentence(f"the processor of {source.label}", remedy):
        return getattr(transformers, auto).from_pretrained(**_where(source))


def load_config(source: Source, auto: str | None = None) -> PreTrainedConfig:
    """The transformers configuration of `source`; the same models are refused as in `load_model`, where the class that
    will load it is named."""
    folder = _checked_folder(source)
    with quiet(), in_one_sentence(f"the config.json of {source.label}", CONFIG_REMEDY):
        config: PreTrainedConfig = AutoConfig.from_pretrained(**_where(source))
    if auto == CAUSAL and not _read_config(folder).get("auto_map"):
        refuse_other_tasks(config, source.label)
    return config


def _where(source: Source) -> dict[str, Any]:
    """The arguments by which every from_pretrained finds the source."""
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": source.location,
        "trust_remote_code": source.trusted,
        # The files are here by now; asking the hub again could mix two states of it.
        "local_files_only": True,
    }
    return where if source.gguf_file is None else where | {"gguf_file": source.gguf_file}


def _checked_folder(source: Source) -> Path:
    """The folder of the source's files, after a look at config.json that runs no code."""
    folder = local_folder(source)
    if source.gguf_file is not None:
        return folder
    try:
        config = _read_config(folder)
    except (OSError, ValueError, RecursionError) as error:
        raise SinkquantError(
            f"{source.label} has no readable config.json: copy or download the model again."
        ) from error
    refuse_adapter(folder, source.label)
    quantized = config.get("quantization_config")
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        method = method or "an unnamed method"
        raise UsageError(f"{source.label} is quantized already ({method}): give the float model that it was made from.")
    if not source.trusted and brings_code(folder):
        raise UsageError(
            f"{source.label} brings Python code that would run on this machine: read it, "
            "then allow it with --trust-remote-code."
        )
    return folder


def _read_config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError("no object")
    return config


def _own_head(model: PreTrainedModel) -> None:
    """Correct a configuration that says tied where the weights are not, as of a merged LoRA with a head of its own."""
    embedding, head = embedding_of(model), head_of(model)
    text = model.config.get_text_config()
    if (
        getattr(text, "tie_word_embeddings", False)
        and embedding is not None
        and head is not None
        and head.weight is not embedding.weight
    ):
        model.config.tie_word_embeddings = text.tie_word_embeddings = False


def _check_readable(files: Iterable[Path]) -> None:
    for file in files:
        try:
            with safe_open(file, framework="pt") as stored:  # opening compares the header with the file's size
                codes = [name for name in stored.keys() if _holds_codes(name, stored)]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise SinkquantError(
                f"{file.name} is damaged or incomplete ({error}): copy or download it again."
            ) from error
        if codes:
            raise UsageError(
                f"{file.name} holds integers in {codes[0]}, so the model is quantized already: "
                "give the float model that it was made from."
            )


def _holds_codes(name: str, stored: Any) -> bool:
    """Whether a weight is stored in integers, which transformers would take for its numbers."""
    return name.endswith("weight") and stored.get_slice(name).get_dtype()[0] in "IU"


@contextmanager
def in_one_sentence(what: str, remedy: str) -> Iterator[None]:
    """Whatever transformers raises about the files, as one sentence."""
    try:
        yield
    except SinkquantError:
        raise
    except Exception as error:  # no narrower class covers what from_pretrained and the model files can raise
        if out_of_memory(error):
            raise SinkquantError(
                f"memory ran out while {what} was loaded: close other programs, or use a machine with more memory."
            ) from error
        reason = shorten(" ".join(str(error).split()).split(". ")[0].rstrip("."), 200)
        if not reason or isinstance(error, LookupError | AttributeError):  # their texts are mere names
            reason = f"{type(error).__name__} {reason}".rstrip()
        raise SinkquantError(
            f"transformers {transformers.__version__} cannot load {what} ({reason}): {remedy}."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars and reports of transformers and compressed-tensors off the terminal; both come back afterwards.

    One thread at a time: these are settings of the process, and so is much of what transformers switches as it loads.
    """
    with _ALONE:
        verbosity, start, loads = logging.get_verbosity(), tqdm.__init__, get_ident()

        def disabled(bar: Any, *args: Any, **options: Any) -> None:
            start(bar, *args, **(options | {"disable": True} if get_ident() == loads else options))

        logging.set_verbosity_error()
        try:
            # Neither the GGUF reader nor compressed-tensors asks anyone before it draws a bar.
            tqdm.__init__ = disabled  # type: ignore[method-assign]
            yield
        finally:
            tqdm.__init__ = start  # type: ignore[method-assign]
            logging.set_verbosity(verbosity)
