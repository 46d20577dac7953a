"""`load`: a checkpoint that sinkquant wrote, verified, as a transformers model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sinkquant.checkpoint.manifest import verify
from sinkquant.errors import SinkquantError
from sinkquant.models.load import quiet
from sinkquant.runtime.register import register_config, register_runtime


def load(path: str | Path, *, dtype: torch.dtype | str = "auto", device_map: Any = None) -> Any:
    """Load a checkpoint of either kind in evaluation mode.

    Raises SinkquantError where a file is missing or has changed (its checksum is named).
    """
    folder = Path(path)
    if not folder.is_dir():
        raise SinkquantError(f"{folder} is no folder: give the folder that sinkquant quantize wrote.")
    manifest = verify(folder)
    register_config()
    register_runtime()
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map=device_map, use_safetensors=True)
    facts = getattr(model.config, "sinkquant", None) or {}
    stated = facts.get("model_fingerprint")
    if stated is not None and stated != manifest.get("model_fingerprint"):
        raise SinkquantError(f"the prefix in {folder} belongs to another model: quantize this model again.")
    model.eval().requires_grad_(False)
    if manifest["recipe"]["target"] == "portable":
        # compressed-tensors unpacks at the first call of the whole model; its parts come later
        with quiet(), torch.no_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device), use_cache=False)
    return model
