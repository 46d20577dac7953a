"""sinkquant: post-training quantization that takes sink outliers out of the way.

`import sinkquant` is cheap: neither torch nor transformers is imported. When transformers is imported, before or after,
it learns to load sink-aware checkpoints.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wrapt import register_post_import_hook

from sinkquant.errors import SinkquantError, UsageError

if TYPE_CHECKING:
    from sinkquant.api.detect import detect
    from sinkquant.api.evaluate import evaluate
    from sinkquant.api.evaluate_tasks import evaluate_tasks
    from sinkquant.api.inspect import inspect
    from sinkquant.api.load import load
    from sinkquant.api.quantize import quantize
    from sinkquant.api.verify import verify
    from sinkquant.recipes.schema import Recipe
    from sinkquant.runtime.cache import SinkCache
    from sinkquant.sinks.report import SinkReport

__version__ = "0.1.0"
__all__ = [
    "Recipe",
    "SinkCache",
    "SinkReport",
    "SinkquantError",
    "UsageError",
    "detect",
    "evaluate",
    "evaluate_tasks",
    "inspect",
    "load",
    "quantize",
    "verify",
]

_HOMES = {
    "detect": "sinkquant.api.detect",
    "evaluate": "sinkquant.api.evaluate",
    "evaluate_tasks": "sinkquant.api.evaluate_tasks",
    "inspect": "sinkquant.api.inspect",
    "load": "sinkquant.api.load",
    "quantize": "sinkquant.api.quantize",
    "verify": "sinkquant.api.verify",
    "Recipe": "sinkquant.recipes.schema",
    "SinkCache": "sinkquant.runtime.cache",
    "SinkReport": "sinkquant.sinks.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sinkquant' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def _when_imported(module: str, function: str) -> None:
    """Call `sinkquant.runtime.register.<function>` once `module` is imported (at once if it already is)."""
    register_post_import_hook(lambda _: getattr(import_module("sinkquant.runtime.register"), function)(), module)


_when_imported("transformers.models.auto.configuration_auto", "register_config")
_when_imported("transformers.modeling_utils", "register_runtime")
