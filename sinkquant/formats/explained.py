"""Whatever goes wrong inside transformers while a checkpoint is loaded is one sentence about the checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from sinkquant.models.load import in_one_sentence

F = TypeVar("F", bound=Callable[..., Any])
REMEDY = "copy it again, or quantize again with these versions"


def explained(load: F) -> F:
    """`load`, whose first argument is the checkpoint's path, with SinkquantError for every error."""

    @functools.wraps(load)
    def call(*args: Any, **kwargs: Any) -> Any:
        with in_one_sentence(f"the checkpoint {args[0] if args else kwargs['path']}", REMEDY):
            return load(*args, **kwargs)

    return cast(F, call)
