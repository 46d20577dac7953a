"""Verification finds a file that changed, and a checkpoint that computes something else than it did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import sinkquant
from sinkquant.api.verify import verify
from sinkquant.evaluation.probe import compare_probes
from sinkquant.formats.manifest import read_manifest, write_manifest


@pytest.fixture(scope="module")
def checkpoint(quantized: Callable[..., Path]) -> Path:
    return quantized("w8a8-static", "sinks.prefix=[1]")


def rewrite(folder: Path) -> None:
    """The manifest again, with the checksums of the files as they are now."""
    write_manifest(folder, json.loads((folder / "sinkquant.json").read_text()))


def test_a_fresh_process_computes_the_same_bits(checkpoint: Path) -> None:
    found = verify(checkpoint)
    assert found.difference.identical
    assert (found.difference.mean, found.files) == (0, len(read_manifest(checkpoint).files))
    assert found.difference.tokens > 64


def test_a_prefix_that_is_lost_is_found(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        if name.endswith("sink_value"):
            tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(sinkquant.SinkquantError, match="its checksum is not"):
        verify(folder)
    rewrite(folder)
    with pytest.raises(sinkquant.SinkquantError, match="gives other losses than the manifest"):
        verify(folder)


def test_the_comparison() -> None:
    stored = {"nll": [1.0, 2.0], "logits": "sha256:a"}
    assert compare_probes(stored, stored).identical
    near = compare_probes(stored, {"nll": [1.0, 2.01]})  # an engine that keeps its logits
    assert (near.identical, near.acceptable, near.tokens) == (False, True, 2)
    assert (near.largest, near.shift) == (pytest.approx(0.01), pytest.approx(0.005))
    assert not compare_probes(stored, {"nll": [1.1, 2.1]}).acceptable


def test_changes_in_both_directions_are_rounding_of_an_engine() -> None:
    stored = {"nll": [1.0] * 100, "logits": "sha256:a"}
    flips = compare_probes(stored, {"nll": [0.8, 1.2] * 50})
    assert flips.acceptable
    assert flips.error == pytest.approx(0.02, rel=0.02)
    assert not compare_probes(stored, {"nll": [0.9, 1.3] * 50}).acceptable
    assert not compare_probes(stored, {"nll": [0.8, 1.2] * 50, "logits": "sha256:b"}).acceptable  # the same engine


def test_what_cannot_be_verified(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(sinkquant.UsageError, match="unknown runtime 'vlm'"):
        verify(checkpoint, runtime="vlm")
    if find_spec("vllm") is None:
        with pytest.raises(sinkquant.UsageError, match="vllm is not installed here"):
            verify(checkpoint, runtime="vllm")
    with pytest.raises(sinkquant.UsageError, match="is no folder"):
        verify(tmp_path / "nothing")
