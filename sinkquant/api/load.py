"""`load`: a checkpoint that sinkquant wrote, verified, as a transformers model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from sinkquant.arguments import checked, float_dtype, known_devices
from sinkquant.errors import unknown
from sinkquant.formats.load import read

EXECUTIONS = ("reference", "auto")


@checked
def load(
    path: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    device_map: Any = None,
    offload_folder: str | Path | None = None,
    execution: Literal["reference", "auto"] = "reference",
    checksums: bool = True,
    trust_remote_code: bool = False,
) -> Any:
    """Load a checkpoint of any format in evaluation mode, in the `dtype` of the proof or another ("auto": as stored).

    `execution`: `reference` computes in float on rounded inputs and gives the logits of the proof bit for bit; `auto`
    lets integer kernels compute where they are right and faster on this machine. Weights stay packed with both.

    `device_map` and `offload_folder` are those of transformers: modules on "disk" are read when they are called, their
    packed weights and prefix with them. The logits stay the same bits.

    `checksums`: whether every file is compared with its checksum meanwhile. A processor without SHA instructions hashes
    more slowly than it loads; leave it out where the files were verified before.

    `trust_remote_code`: the Python code that the checkpoint has from its model may run.

    Raises SinkquantError where a file is missing or has changed (its checksum is named).
    """
    if execution not in EXECUTIONS:
        raise unknown("execution", execution, EXECUTIONS)
    float_dtype(dtype)
    known_devices(device_map)
    return read(
        path, dtype=dtype, device_map=device_map, offload_folder=offload_folder, execution=execution,
        checksums=checksums, trust_remote_code=trust_remote_code,
    )  # fmt: skip
