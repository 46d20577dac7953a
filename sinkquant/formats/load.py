"""Read a checkpoint of either kind: verified, as a transformers model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM

from sinkquant.errors import SinkquantError
from sinkquant.formats.explained import explained
from sinkquant.formats.facts import Manifest
from sinkquant.formats.manifest import KEY, OWN, check_files, read_manifest, refuse_code, refuse_unlisted
from sinkquant.formats.stated import stated_config
from sinkquant.models.complete import check_complete
from sinkquant.models.finite import check_finite
from sinkquant.models.load import quiet
from sinkquant.runtime.assemble import assemble
from sinkquant.runtime.config import load_base_config
from sinkquant.runtime.kernels.use import use_kernels
from sinkquant.runtime.loaded import REMEDY
from sinkquant.runtime.portable import portable_quantization, quantized_linears
from sinkquant.runtime.register import register_config, register_runtime


@explained
def read(
    path: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    device_map: Any = None,
    offload_folder: str | Path | None = None,
    execution: Literal["reference", "auto"] = "reference",
    checksums: bool = True,
    trust_remote_code: bool = False,
) -> Any:
    """The model in the checkpoint at `path`; the arguments are those of `sinkquant.load`, and are right."""
    folder = Path(path)
    if not folder.is_dir():
        raise SinkquantError(f"{folder} is no folder: give the folder that sinkquant quantize wrote.")
    manifest = read_manifest(folder)
    refuse_unlisted(folder, manifest)
    refuse_code(folder, trust_remote_code)
    stated_config(folder, manifest)
    weights = [name for name in manifest.files if name.endswith(".safetensors")]
    if checksums:
        check_files(folder, manifest, manifest.files.keys() - set(weights))
    register_config()
    register_runtime()
    portable = manifest.recipe.target == "portable"
    # compressed-tensors cannot unpack what lies on disk; our own runtime never unpacks
    packed = execution == "auto" or offload_folder is not None
    with _verifying(folder, manifest, weights) if checksums else nullcontext(), quiet():
        config = load_base_config(folder, trust_remote_code)
        if portable and packed:
            limit = manifest.recipe.weights.limit
            config.quantization_config = portable_quantization(folder, config.quantization_config, limit).to_dict()
        elif portable:
            quantized_linears(folder)  # raises where one is incomplete
        own_code = bool(getattr(config, "auto_map", None))  # of which `assemble` knows nothing
        whole = not own_code and device_map is None and offload_folder is None and (packed or not portable)
        model = assemble(folder, config, dtype) if whole else None
        if model is None:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=dtype, device_map=device_map, use_safetensors=True,
                offload_folder=offload_folder, offload_buffers=offload_folder is not None,
                trust_remote_code=trust_remote_code, output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
            model, info = loaded
            check_complete(str(folder), info, REMEDY)
        check_finite(model)
    facts = getattr(model.config, KEY, None) or {}
    facts.pop(OWN, None)  # a checkpoint that is saved from this model has another manifest, or none
    stated = facts.get("model_fingerprint")
    if stated is not None and stated != manifest.model_fingerprint:
        raise SinkquantError(f"the prefix in {folder} belongs to another model: quantize this model again.")
    _freeze(model)
    if execution == "auto":
        return use_kernels(model)
    if portable and not packed:
        # compressed-tensors unpacks at the first call of the whole model; its parts come later
        with quiet(), torch.no_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device), use_cache=False)
    return model


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
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Linear):
        head.register_forward_pre_hook(_in_one_piece)


def _in_one_piece(head: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return args[0].contiguous(), *args[1:]
