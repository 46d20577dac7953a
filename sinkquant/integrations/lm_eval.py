"""Tasks of lm-evaluation-harness on a model whose BOS is in the text, in its prefix or nowhere.

BOS is a property of the model here, not of the text: it stands in front of every window, or is carried by the prefix.
Nothing predicts the first token of a text without context then, so it is not scored, for baseline and result alike;
lm-eval itself would score it behind an extra BOS or EOS, which is a sink of its own in front of a prefix.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.inputs.bos import in_front
from sinkquant.models.load import quiet

NOTHING = -1
"""What stands in front of a text without context; never shown to a model."""

SEED = 1234  # lm-eval's own, so that figures compare
BOOTSTRAP = 100  # resamplings for the standard errors of metrics that have no formula for it


class PrefixLM(HFLM):
    """A loaded model for lm-eval. `bos`: the id that stands in front of every window, None where none does.

    `dropped`: the id of a BOS that texts may begin with and that is left out, because it is there already.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, bos: int | None, dropped: int | None, window: int, batch_size: int
    ) -> None:
        with _silent():
            super().__init__(model, backend="causal", tokenizer=tokenizer, max_length=window, batch_size=batch_size)
        self.bos, self.dropped = bos, dropped

    @property
    def prefix_token_id(self) -> int:
        """lm-eval's placeholder for the context of a text without one."""
        return NOTHING

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: Any
    ) -> list[int]:
        """Text tokens alone; a BOS that a chat template wrote is left out where the model has it anyway."""
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=False)
        if self.dropped is not None and ids[:1] == [self.dropped]:
            ids = ids[1:]
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_batch_encode(
        self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, T)."""
        ids = [self.tok_encode(string, left_truncate_len=left_truncate_len) for string in strings]
        padded = self.tokenizer.pad({"input_ids": ids}, padding_side=padding_side, return_tensors="pt")
        return padded["input_ids"], padded["attention_mask"]

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._loglikelihood_tokens([_seen(*request) for request in requests], *args, **kwargs)

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.bos is None:
            return super()._model_call(inps, *args, **kwargs)
        return super()._model_call(in_front(inps, self.bos), *args, **kwargs)[:, 1:]

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Tensor:
        if self.bos is None:
            return super()._model_generate(context, max_length, stop, **kwargs)
        kwargs["attention_mask"] = in_front(kwargs["attention_mask"], 1)
        return super()._model_generate(in_front(context, self.bos), max_length + 1, stop, **kwargs)[:, 1:]


def _seen(text: Any, context: Sequence[int], continuation: Sequence[int]) -> tuple[Any, list[int], list[int]]:
    """A request in which the first token of a text without context is its context."""
    if list(context) != [NOTHING]:
        return text, list(context), list(continuation)
    if len(continuation) < 2:
        raise UsageError("a task scores a single token without any context: nothing predicts it, leave this task out.")
    return text, list(continuation[:1]), list(continuation[1:])


def find_tasks(tasks: Sequence[str], task_data: Path | None) -> TaskManager:
    """A manager that knows `tasks`: those in the folder `task_data`, else lm-eval's own as well.

    Raises UsageError for a name that neither has.
    """
    folder = str(task_data) if task_data else None
    with _silent():
        manager = TaskManager(include_path=folder, include_defaults=False)
        if not set(tasks) <= set(manager.all_tasks):  # lm-eval has thousands of files to look through
            manager = TaskManager(include_path=folder)
    for name in tasks:
        if name not in manager.all_tasks:
            near = get_close_matches(name, manager.all_tasks, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UsageError(f"unknown task {name!r}: {hint}name one of lm-eval's or one in --task-data.")
    return manager


def run_tasks(
    model: PrefixLM, tasks: Sequence[str], manager: TaskManager, *, limit: int | None, task_data: Path | None
) -> dict[tuple[str, str], tuple[float, float | None]]:
    """(task, metric) → (value, standard error or None) over the first `limit` documents of every task.

    Relative paths in task files are relative to `task_data`. Raises SinkquantError where a task's data cannot be had.
    """
    with _silent(), chdir(task_data) if task_data else nullcontext():
        try:
            loaded: Any = manager.load(list(tasks))
        except OSError as error:  # what datasets raises for a missing file and without network
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise SinkquantError(
                f"the data of {', '.join(tasks)} cannot be loaded ({reason}): name a folder with --task-data "
                "whose tasks read files that are here."
            ) from error
        for task in loaded["tasks"].values():
            task.set_fewshot_seed(seed=SEED)  # both models see the same examples
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
        results = evaluate(model, loaded, limit=limit, bootstrap_iters=BOOTSTRAP, log_samples=False)
    assert results is not None
    return dict(_figures(results["results"]))


def _figures(results: Any) -> Iterator[tuple[tuple[str, str], tuple[float, float | None]]]:
    for task, metrics in results.items():
        for key, value in metrics.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = metrics.get(f"{metric}_stderr,{filtered}")
            name = metric if filtered == "none" else f"{metric} ({filtered})"
            yield (task, name), (float(value), float(error) if isinstance(error, int | float) else None)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep lm-eval's bars and log lines off the terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        logger.setLevel(level)
