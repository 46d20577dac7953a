"""Read a checkpoint of any format: verified, as a transformers model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from sinkquant.errors import SinkquantError
from sinkquant.formats.explained import explained
from sinkquant.formats.facts import Manifest
from sinkquant.formats.format import FORMATS, Asked
from sinkquant.formats.manifest import KEY, OWN, check_files, read_manifest, refuse_code, refuse_unlisted
from sinkquant.formats.stated import stated_config
from sinkquant.models.ends import head_of
from sinkquant.models.finite import check_finite
from sinkquant.models.load import quiet
from sinkquant.runtime.kernels.use import use_kernels
from sinkquant.runtime.register import register_config, register_runtime


@explained
def read(
    path: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    device_map: Any = None,
    offload_folder: str | Path | None = None,
    execution: Literal["reference", "auto", "stock"] = "reference",
    checksums: bool = True,
    trust_remote_code: bool = False,
) -> Any:
    """The model in the checkpoint at `path`; the arguments are those of `sinkquant.load`, and are right.

    `execution="stock"`: by the loader that others have for this format, which gives the same bits.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise SinkquantError(f"{folder} is no folder: give the folder that sinkquant quantize wrote.")
    manifest = read_manifest(folder)
    refuse_unlisted(folder, manifest)
    refuse_code(folder, trust_remote_code)
    stated_config(folder, manifest)
    kind = FORMATS[manifest.recipe.target]
    weights = [name for name in manifest.files if name.endswith(kind.weights)]
    if checksums:
        check_files(folder, manifest, manifest.files.keys() - set(weights))
    register_config()
    register_runtime()
    asked = Asked(dtype, device_map, offload_folder, execution, trust_remote_code)
    with _verifying(folder, manifest, weights) if checksums else nullcontext(), quiet():
        model = kind.read(folder, manifest, asked)
        check_finite(model)
    (getattr(model.config, KEY, None) or {}).pop(OWN, None)  # what is saved from this model has no manifest
    _freeze(model)
    return use_kernels(model) if execution == "auto" else model


@contextmanager
def _verifying(folder: Path, manifest: Manifest, names: list[str]) -> Iterator[None]:
    """Compare checksums of these files meanwhile (hashing leaves Python free); a changed one explains what fails."""
    with ThreadPoolExecutor(1) as beside:
        verified = beside.submit(check_files, folder, manifest, names)
        try:
            yield
        finally:
            verified.result()


def _freeze(model: Any) -> None:
    """Evaluation mode without gradients; a float head gets its rows in one piece.

    A slice of (sequences, tokens, width) is no matrix: torch would multiply each sequence by a copy of the head.
    """
    model.eval().requires_grad_(False)
    head = head_of(model)
    if isinstance(head, torch.nn.Linear):
        head.register_forward_pre_hook(_in_one_piece)


def _in_one_piece(head: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return args[0].contiguous(), *args[1:]
