"""The tasks by name, and which one a model is for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sinkquant.errors import UsageError
from sinkquant.models.load import CAUSAL, load_config
from sinkquant.registry import Registry
from sinkquant.tasks.task import Task

if TYPE_CHECKING:
    from sinkquant.models.source import Source

TASKS: Registry[Task] = Registry(
    "task",
    {
        "causal-lm": "sinkquant.tasks.causal_lm:CAUSAL_LM",
        "seq2seq-lm": "sinkquant.tasks.seq2seq_lm:SEQ2SEQ_LM",
        "speech": "sinkquant.tasks.speech:SPEECH",
        "masked-lm": "sinkquant.tasks.masked_lm:MASKED_LM",
        "image-classification": "sinkquant.tasks.images:IMAGE_CLASSIFICATION",
        "image-text": "sinkquant.tasks.image_text:IMAGE_TEXT",
        "image-features": "sinkquant.tasks.images:IMAGE_FEATURES",
        "embedding": "sinkquant.tasks.embedding:EMBEDDING",
    },
)
DEFAULT = "causal-lm"


def find_task(source: Source, wanted: str | None = None) -> Task:
    """The task `wanted`, or the one whose class of transformers the configuration of `source` names.

    Raises UsageError for an unknown task, for one that transformers has no class for in this family, and for a model
    that is for something else.
    """
    if source.gguf_file is not None:
        return TASKS[wanted or DEFAULT]
    config = load_config(source)
    if wanted is not None:
        task = TASKS[wanted]
        if not task.takes(config):
            raise UsageError(
                f"{source.label} ({config.model_type}) is no {task.words}: name another task, or none to let "
                "the model's own class decide."
            )
        if not getattr(config, "auto_map", None) and not _loads(task, config):
            raise UsageError(
                f"{source.label} is a {config.model_type}, for which transformers has no {task.auto}: "
                f"name another task, or none to let the model's own class decide."
            )
        return task
    stated = config.architectures if isinstance(config.architectures, list | tuple) else ()
    for name in TASKS:
        if any(cls in _classes(TASKS[name]) for cls in stated) and TASKS[name].takes(config):
            return TASKS[name]
    load_config(source, CAUSAL)  # refuses what is for something else
    return TASKS[DEFAULT]


def _loads(task: Task, config: Any) -> bool:
    return type(config) in _mapping(task)


def _classes(task: Task) -> set[str]:
    """Names of the model classes that the task's auto class chooses from."""
    names = _mapping(task)._model_mapping.values()
    return {name for entry in names for name in ((entry,) if isinstance(entry, str) else entry)}


def _mapping(task: Task) -> Any:
    import transformers

    return getattr(transformers, task.auto)._model_mapping
