"""The functions of the package with arguments that they do not take: one sentence each, before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import sinkquant
from sinkquant.arguments import checked
from sinkquant.errors import UsageError

ENOUGH: dict[str, dict[str, Any]] = {
    "quantize": {"model": "m", "dry_run": True},
    "detect": {"model": "m"},
    "load": {"path": "ck"},
    "evaluate": {"path": "ck", "baseline": "m"},
    "evaluate_tasks": {"path": "ck", "baseline": "m", "tasks": ["t"]},
    "inspect": {"path": "ck"},
    "verify": {"path": "ck"},
}
PATHS = (None, 3, 2.5, b"x", ["m"], object())
WRONG: list[tuple[str, str, tuple[Any, ...]]] = [
    *((name, "path", PATHS) for name in ("load", "evaluate", "evaluate_tasks", "inspect", "verify")),
    *((name, "baseline", PATHS) for name in ("evaluate", "evaluate_tasks")),
    ("quantize", "model", (*PATHS, torch.nn.Linear(1, 1))),
    ("quantize", "recipe", (3, [], {}, b"w8a8")),
    ("quantize", "bits", ("8", 8.0, True, [8])),
    ("quantize", "target", (3, [], b"portable")),
    ("quantize", "output", (3, b"x", [])),
    ("quantize", "overrides", ("weights.bits=4", [3], None, 3, {"weights.bits": 4})),
    ("quantize", "calibration", (3, b"x", ["a"])),
    ("quantize", "overwrite", (1, "yes", None)),
    ("quantize", "progress", (3, "x")),
    ("quantize", "planned", (3, "x")),
    ("detect", "calibration", (3, b"x")),
    ("detect", "bos", (True, None, 3)),
    ("detect", "max_prefix", ("4", 2.5, None, True)),
    ("load", "dtype", (None, 3, ["float32"])),
    ("load", "execution", (None, 3, ["auto"])),
    ("load", "offload_folder", (3, b"x")),
    ("load", "checksums", (None, 1)),
    ("evaluate", "text", (3, b"x")),
    ("evaluate", "window", ("64", 64.0, None)),
    ("evaluate", "max_tokens", ("64", 64.0)),
    ("evaluate_tasks", "tasks", (None, "t", [3])),
    ("evaluate_tasks", "limit", ("3", 2.5)),
    ("verify", "runtime", (None, 3)),
]


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [(function, name, value) for function, name, values in WRONG for value in values],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_another_type_is_named(function: str, name: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        getattr(sinkquant, function)(**ENOUGH[function] | {name: value})
    text = str(caught.value)
    assert text.startswith(f"{function}: {name} is ") and text.endswith(".") and "\n" not in text


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("detect", {"model": None}, "a path, a name, or a transformers model together with its tokenizer"),
        ("detect", {"model": torch.nn.Linear(1, 1), "tokenizer": str}, "a transformers model together with"),
        ("detect", {"max_prefix": 0}, "max_prefix is 0 but must be 1 to 16"),
        ("detect", {"max_prefix": -1}, "max_prefix is -1 but must be 1 to 16"),
        ("quantize", {"bits": -1}, "bits is -1 but must be 4 or 8"),
        ("quantize", {"target": "stock"}, "unknown target 'stock'"),
        ("verify", {"runtime": "vlm"}, "unknown runtime 'vlm': did you mean 'vllm'"),
    ],
)
def test_other_values_are_named(function: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        getattr(sinkquant, function)(**ENOUGH[function] | arguments)


@pytest.mark.parametrize("dtype", ["float33", "int8", "torch.int8", torch.int8, torch.float8_e4m3fn, "load", "__doc__"])
def test_types_that_nothing_computes_in(dtype: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be auto, float32, bfloat16 or float16"):
        sinkquant.load(tmp_path, dtype=dtype)


@pytest.mark.parametrize("place", ["foo", "cuda:99", 99, {"": "foo"}, {"model": "cpu", "lm_head": 99}, 2.5])
def test_devices_that_are_not_there(place: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="which torch does not find here: name another device"):
        sinkquant.load(tmp_path, device_map=place)


def test_what_fits_is_passed_on_as_it_is() -> None:
    @checked
    def take(path: str | Path, *, names: Sequence[str] | None = None, make: Callable[[int], int] | None = None) -> Any:
        return path, names, make

    class Place:
        def __fspath__(self) -> str:
            return "x"

    place, names = Place(), ["a"]
    assert take(place, names=names, make=abs) == (place, names, abs)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected"):
        take("x", nmaes=[])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="missing"):
        take()  # type: ignore[call-arg]
