"""A transformers model out of the files of a checkpoint, by our quantizer or by another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from sinkquant.formats.format import Asked
from sinkquant.models.complete import check_complete
from sinkquant.models.stubs import call_model
from sinkquant.runtime.assemble import assemble
from sinkquant.runtime.loaded import REMEDY
from sinkquant.tasks.task import Task


def build(folder: Path, config: Any, task: Task, asked: Asked, *, ours: bool) -> Any:
    """The model in `folder`, by the class that its task names; `ours`: `config` has our quantization.

    SinkquantError where tensors lack or do not fit.
    """
    own_code = bool(getattr(config, "auto_map", None))  # of which `assemble` knows nothing
    whole = ours and not own_code and asked.device_map is None and asked.offload_folder is None
    model = assemble(folder, config, task.auto, asked.dtype) if whole else None
    if model is not None:
        return model
    loaded: Any = getattr(transformers, task.auto).from_pretrained(
        folder, config=config, dtype=asked.dtype, device_map=asked.device_map, use_safetensors=True,
        offload_folder=asked.offload_folder, offload_buffers=asked.offload_folder is not None,
        trust_remote_code=asked.trust_remote_code, output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    model, info = loaded
    check_complete(str(folder), info, REMEDY)
    return model


@torch.no_grad()
def unpack(model: Any, task: Task) -> Any:
    """`model` with float weights: compressed-tensors unpacks at the first call of the whole; its parts come later."""
    probe = task.probe(model)
    if probe.method is not None:
        model.hf_quantizer.compressor.decompress_model(model)
    call_model(model.eval(), probe)
    return model
