"""What a model is for, by its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto

from sinkquant.errors import UsageError

# Classes that answer in text are causal inside; base classes and those for pretraining say nothing of a task.
_OPEN = ("CAUSAL_LM", "PRETRAINING", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "TEXT_ENCODING", "RETRIEVAL", "BACKBONE")


def refuse_other_tasks(config: PreTrainedConfig, label: str) -> None:
    """Raise UsageError for a model that is no causal language model, with what it is.

    `config` is one that transformers knows; remote code is not asked.
    """
    stated = config.architectures if isinstance(config.architectures, list | tuple) else ()
    name = next((name for name in stated if isinstance(name, str)), None)
    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if name in _classes(causal):
        return
    task = next((task for task, names in _tasks() if name in names), None)
    if config.model_type in causal and task is None and not getattr(config, "is_encoder_decoder", False):
        return
    kind = "encoder and decoder" if getattr(config, "is_encoder_decoder", False) else task or "another task"
    raise UsageError(
        f"{label} is a {name or config.model_type} ({kind}) and no causal language model: name what it is for with "
        "--task, or give one whose class ends in ForCausalLM."
    )


def _tasks() -> Iterator[tuple[str, set[str]]]:
    """Every other task that transformers has classes for, in words, with the names of the classes."""
    for key, mapping in vars(modeling_auto).items():
        task = key.removeprefix("MODEL_FOR_").removesuffix("_MAPPING_NAMES")
        if key.startswith("MODEL_FOR_") and key.endswith("_MAPPING_NAMES") and task not in _OPEN:
            yield task.replace("_", " ").lower(), _classes(mapping)


def _classes(mapping: Any) -> set[str]:
    listed = ((value,) if isinstance(value, str) else value for value in mapping.values())
    return {name for names in listed for name in names}
