"""One vector a text from one a token, as the files of sentence-transformers beside a model say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sinkquant.errors import SinkquantError, unknown
from sinkquant.models.json_file import parse_json, read_bytes

AGAIN = "copy or download the model again"
MODULES, SETTINGS = "modules.json", "config.json"
MEAN = ("mean_tokens",)
"""Where no file says anything."""


def pool(states: Tensor, real: Tensor, modes: tuple[str, ...] = MEAN) -> Tensor:
    """States (N, T, D) and what of them is real (N, T) bool give (N, D), or the modes' vectors side by side."""
    return torch.cat([MODES[mode](states, real) for mode in modes], dim=-1)


def _mean(states: Tensor, real: Tensor) -> Tensor:
    return _weighted(states, real.to(states.dtype))


def _weighted_mean(states: Tensor, real: Tensor) -> Tensor:
    """Later tokens count more: by their place, from 1 on."""
    return _weighted(states, real.cumsum(1).to(states.dtype) * real)


def _weighted(states: Tensor, weights: Tensor) -> Tensor:
    return (states * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp_min(1e-9)


def _first(states: Tensor, real: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), real.int().argmax(1)]


def _last(states: Tensor, real: Tensor) -> Tensor:
    places = torch.arange(real.shape[1], device=real.device)
    return states[torch.arange(len(states), device=states.device), (places * real).argmax(1)]


def _largest(states: Tensor, real: Tensor) -> Tensor:
    return states.masked_fill(~real[..., None], -torch.inf).max(1).values


MODES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls_token": _first, "max_tokens": _largest, "mean_tokens": _mean,
    "mean_sqrt_len_tokens": _mean,  # another length, the same direction
    "weightedmean_tokens": _weighted_mean, "lasttoken": _last,
}  # fmt: skip
"""By their names in `1_Pooling/config.json`, in the order in which sentence-transformers joins them."""
SHORT = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}


def folder_of(model: Any) -> Path | None:
    """Where the files of a model lie, None for one that was made in memory."""
    name = getattr(model, "name_or_path", "")
    if name and Path(name).is_dir():
        return Path(name)
    if not name or "/" not in name:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, SETTINGS)
    return Path(found).parent if isinstance(found, str) else None


def pooling_modes(folder: Path | None) -> tuple[str, ...]:
    """The modes that the Pooling module in `folder` names; the mean where there is none.

    Raises UsageError for a mode that nothing is known of, SinkquantError for files that cannot be read.
    """
    for kind, path in modules(folder):
        if kind == "Pooling" and folder is not None:
            settings = _read(folder / path / SETTINGS)
            named = settings.get("pooling_mode")
            if isinstance(named, str):
                modes = [SHORT.get(named, named)]
            else:
                keys = [key for key, on in settings.items() if key.startswith("pooling_mode_") and on]
                modes = [key.removeprefix("pooling_mode_") for key in keys]
            for mode in modes:
                if mode not in MODES:
                    raise unknown("pooling mode", mode, MODES)
            return tuple(mode for mode in MODES if mode in modes) or MEAN
    return MEAN


def modules(folder: Path | None) -> Iterator[tuple[str, str]]:
    """Kind and path of the modules that sentence-transformers makes a model of, in order; none without its files."""
    if folder is None or not (folder / MODULES).is_file():
        return
    listed = _read(folder / MODULES)
    if not isinstance(listed, list):
        raise SinkquantError(f"{folder / MODULES} is no list of modules: {AGAIN}.")
    for one in listed:
        kind, path = (one.get(key) for key in ("type", "path")) if isinstance(one, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str) or not _inside(path):
            raise SinkquantError(f"{folder / MODULES} has a module without type and path: {AGAIN}.")
        yield kind.rpartition(".")[2], path


def _inside(path: str) -> bool:
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _read(path: Path) -> Any:
    return parse_json(read_bytes(path, AGAIN), path, AGAIN)
