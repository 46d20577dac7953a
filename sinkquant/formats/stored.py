"""What lies in a checkpoint, read from the headers of its safetensors files: no tensor is loaded, no torch imported."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sinkquant.errors import SinkquantError
from sinkquant.models.json_file import understood
from sinkquant.models.seal import KEY

ADDED = ("sink_key", "sink_value", "key_transform", "query_transform", "key_offset", "value_offset")
"""Tensors of the attention that the original model does not have."""

HEADS = ("lm_head", "embed_out", "output", "head")
EXTRA = ("weight_scale", "weight_zero_point", "weight_shape", "spike_index", "spike_weight")


@dataclass(frozen=True)
class Stored:
    """One tensor: its dtype in safetensors' words (`BF16`), its shape and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class Weight:
    """The weight of one module with everything stored to read it: `parameters` numbers in `bytes` bytes.

    `multiply_adds`: how many a token costs in this module; a lookup has none, and an embedding that is the head as well
    has the head's. Of experts the active ones count. Scores of the attention are no weights and are not here.
    """

    name: str
    dtype: str
    parameters: int
    bytes: int
    multiply_adds: float

    @property
    def kind(self) -> str:
        """`model.layers.3.self_attn.q_proj` → `q_proj`; a bare parameter is known by its own name."""
        return self.name.rpartition(".")[2]


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Name to tensor, over all shards. A packed weight has the shape that its `weight_shape` states.

    Raises SinkquantError for a file that is no safetensors file, or holds something else than it should.
    """
    found: dict[str, Stored] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np"):
                pass  # opening compares the header with itself and with the file's size
        except (SafetensorError, OSError, ValueError) as error:
            raise SinkquantError(f"{path} is damaged or incomplete ({error}): copy the checkpoint again.") from error
        with understood(path, "copy the checkpoint again"):
            found |= _tensors(path, found)
    return found


def _tensors(path: Path, before: Mapping[str, Stored]) -> dict[str, Stored]:
    """Those of one file; the packed weight of a shape may lie in a file `before` it."""
    found: dict[str, Stored] = {}
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            found[name] = Stored(entry["dtype"], tuple(entry["shape"]), last - first)
        for name in (n for n in header if n.endswith(".weight_shape")):
            file.seek(8 + length + header[name]["data_offsets"][0])
            packed = name.removesuffix("shape") + "packed"
            shape = struct.unpack("<2q", file.read(16))
            if min(shape) < 1 or header[name]["dtype"] != "I64":
                raise ValueError(f"{name} is no shape")
            found[packed] = replace(found.get(packed) or before[packed], shape=shape)
    return found


def stored_weights(tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> Iterator[Weight]:
    """The weight of every module; `config` is the model's config.json, whose vocabulary tells embeddings apart."""
    apart = _apart(tensors, config)
    untied = any(name.split(".")[-2:-1] in [[head] for head in HEADS] for name in tensors)
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf in ADDED or leaf in EXTRA or leaf.startswith("input_") or not tensor.bytes:
            continue
        size = tensor.bytes
        if leaf in ("weight", "weight_packed"):
            size += sum(tensors[f"{module}.{extra}"].bytes for extra in EXTRA if f"{module}.{extra}" in tensors)
            name = module
        rows = tensor.shape[0] if tensor.shape else 1
        lookup = untied and rows == config.get("vocab_size") and name.rpartition(".")[2] not in HEADS
        adds = 0.0 if lookup or _is_vector(tensor) else float(prod(tensor.shape))
        count = tensor.shape[0] if len(tensor.shape) == 3 else _count(name, apart)  # in one tensor, or taken apart
        adds *= min(1.0, config.get("num_experts_per_tok", count) / count)
        yield Weight(name, tensor.dtype, prod(tensor.shape), size, adds)


def _apart(tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> dict[str, int]:
    """How many experts are in every module whose experts are taken apart, by what their names begin with."""
    ours = (config.get(part) or {} for part in ("quantization_config", KEY))
    stated = [name for part in ours for name in part.get("experts", ())]
    found = {}
    for start in (f"{name}." for name in stated):
        numbers = {name.removeprefix(start).partition(".")[0] for name in tensors if name.startswith(start)}
        found[start] = max(1, len(numbers))
    return found


def _count(name: str, apart: Mapping[str, int]) -> int:
    """How many experts share the tokens with the one that `name` is in; 1 where it is in none."""
    return next((count for start, count in apart.items() if name.startswith(start)), 1)


def _is_vector(tensor: Stored) -> bool:
    """Norms, biases, counts and scales; some have leading or trailing axes of one."""
    return sum(size > 1 for size in tensor.shape) < 2
