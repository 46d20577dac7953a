"""Written checkpoints: bit-exact in a fresh process, refused by stock loaders where they need our code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sinkquant
from sinkquant.api.quantize import Result
from sinkquant.checkpoint.manifest import read_manifest, write_manifest

Checkpoint = Callable[..., Path]
IDS = [[5, 17, 100, 23, 42, 7]]
LOAD = f"""
import sys, torch
if sys.argv[3] == "ours":
    import sinkquant
from transformers import AutoModelForCausalLM, LlamaForCausalLM
auto = LlamaForCausalLM if sys.argv[3] == "direct" else AutoModelForCausalLM
model = auto.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
assert ("sinkquant" in sys.modules) == (sys.argv[3] == "ours")
torch.save(model(torch.tensor({IDS})).logits.detach(), sys.argv[2])
"""


def logits_in_fresh_process(folder: Path, how: str, out: Path) -> torch.Tensor | str:
    """Logits, or the end of the error."""
    done = subprocess.run([sys.executable, "-c", LOAD, folder, out, how], capture_output=True, text=True, check=False)
    return torch.load(out) if done.returncode == 0 else done.stderr[-2000:]


@pytest.mark.parametrize("recipe", ["w8a8-static", "w4a4kv4", "kv4"])
def test_sink_aware(quantized: Checkpoint, tmp_path: Path, recipe: str) -> None:
    folder = quantized(recipe, "sinks.prefix=[1]")
    ours = sinkquant.load(folder, dtype=torch.float32)(torch.tensor(IDS)).logits
    fresh = logits_in_fresh_process(folder, "ours", tmp_path / "ours.pt")
    assert isinstance(fresh, torch.Tensor), fresh
    assert torch.equal(fresh, ours)
    for how in ("stock", "direct"):
        refused = logits_in_fresh_process(folder, how, tmp_path / "stock.pt")
        assert isinstance(refused, str)
        assert "Error" in refused


def test_save_pretrained_writes_an_equal_checkpoint(quantized: Checkpoint, tmp_path: Path) -> None:
    model = sinkquant.load(quantized("w4a8kv4", "sinks.prefix=[1]"), dtype=torch.float32)
    model.save_pretrained(tmp_path / "again")
    again = logits_in_fresh_process(tmp_path / "again", "ours", tmp_path / "again.pt")
    assert isinstance(again, torch.Tensor), again
    assert torch.equal(again, model(torch.tensor(IDS)).logits)


@pytest.mark.parametrize("recipe", ["w8a8", "w4a16"])
def test_portable_loads_without_us(quantized: Checkpoint, tmp_path: Path, recipe: str) -> None:
    folder = quantized(recipe)
    ours = sinkquant.load(folder, dtype=torch.float32)(torch.tensor(IDS)).logits
    stock = logits_in_fresh_process(folder, "stock", tmp_path / "stock.pt")
    assert isinstance(stock, torch.Tensor), stock
    assert (stock - ours).abs().max() <= 1e-4 * ours.abs().max()


def test_a_changed_byte_is_named(quantized: Checkpoint, tmp_path: Path) -> None:
    folder = shutil.copytree(quantized("kv4", "sinks.prefix=none"), tmp_path / "kv4")
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    expected = read_manifest(folder).files["model.safetensors"]
    with pytest.raises(sinkquant.SinkquantError, match=f"its checksum is not {expected}"):
        sinkquant.load(folder)
    assert sinkquant.load(folder, checksums=False) is not None


def test_an_existing_folder_is_kept_and_replaced_only_when_complete(
    quantized: Checkpoint, quantize_tiny: Callable[..., Result], tmp_path: Path
) -> None:
    folder = shutil.copytree(quantized("kv4", "sinks.prefix=none"), tmp_path / "kv4")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(sinkquant.UsageError, match="exists and is kept"):
        quantize_tiny(folder, "kv4")
    quantize_tiny(folder, "kv4", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert sinkquant.load(folder) is not None


def test_tied_embeddings_are_stored_once(quantized: Checkpoint, model_folder: Path) -> None:
    folder = quantized("kv4", "sinks.prefix=none", "export.dtype=float32")
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    original = sum(path.stat().st_size for path in model_folder.glob("*.safetensors"))
    added = 3 * 2 * 2 * (12 * 12 + 12) * 4  # blocks x (keys, values) x KV heads x (transform, offset) in float32
    assert stored < original + added + 8_000


def test_loading_and_writing_draw_no_bars(
    quantize_tiny: Callable[..., Result], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quantize_tiny(tmp_path / "out", "w8a8")
    sinkquant.load(tmp_path / "out")  # compressed-tensors draws four bars of its own
    assert capfd.readouterr() == ("", "")


def test_a_prefix_of_another_model_is_refused(quantized: Checkpoint, tmp_path: Path) -> None:
    folder = shutil.copytree(quantized("kv4", "sinks.prefix=[1]"), tmp_path / "kv4")
    config = json.loads((folder / "config.json").read_text())
    config["sinkquant"]["model_fingerprint"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    write_manifest(folder, json.loads((folder / "sinkquant.json").read_text()))
    with pytest.raises(sinkquant.SinkquantError, match="belongs to another model"):
        sinkquant.load(folder)
