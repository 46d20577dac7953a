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
from sinkquant.flow.result import Result
from sinkquant.formats.manifest import read_manifest, write_manifest

Checkpoint = Callable[..., Path]
IDS = [[5, 17, 100, 23, 42, 7]]
PREFIX = "sinks.prefix=[1]"
SINK_AWARE = ("w8a8-static", "w4a4kv4", "kv4")
LOAD = f"""
import sys, torch
ours = sys.argv[1] == "ours"
if ours:
    import sinkquant
from transformers import AutoModelForCausalLM, LlamaForCausalLM
found = {{}}
for folder in sys.argv[3:]:
    for auto in (AutoModelForCausalLM, LlamaForCausalLM):
        try:
            model = auto.from_pretrained(folder, dtype=torch.float32).eval()
            found[folder, auto.__name__] = model(torch.tensor({IDS})).logits.detach()
        except Exception as error:
            found[folder, auto.__name__] = repr(error)
assert ("sinkquant" in sys.modules) == ours
torch.save(found, sys.argv[2])
"""
Loaded = dict[tuple[str, str], torch.Tensor | str]
AUTO, DIRECT = "AutoModelForCausalLM", "LlamaForCausalLM"


@pytest.fixture(scope="module")
def folders(quantized: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint by each recipe, and one that the model saved again."""
    again = tmp_path_factory.mktemp("saved") / "again"
    sinkquant.load(quantized("w8a8-static", PREFIX), dtype=torch.float32).save_pretrained(again)
    return {recipe: quantized(recipe, PREFIX) for recipe in SINK_AWARE} | {"again": again}


def in_fresh_process(whose: str, folders: dict[str, Path], out: Path) -> Loaded:
    """Logits, or the error, by folder and class."""
    command = [sys.executable, "-c", LOAD, whose, out, *folders.values()]
    subprocess.run(command, capture_output=True, text=True, check=True)
    found: Loaded = torch.load(out)
    return found


@pytest.fixture(scope="module")
def with_us(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return in_fresh_process("ours", folders, tmp_path_factory.mktemp("loaded") / "ours.pt")


@pytest.fixture(scope="module")
def without_us(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return in_fresh_process("stock", folders, tmp_path_factory.mktemp("loaded") / "stock.pt")


def loaded(folder: Path) -> torch.Tensor:
    logits: torch.Tensor = sinkquant.load(folder, dtype=torch.float32)(torch.tensor(IDS)).logits
    return logits


@pytest.mark.parametrize("recipe", SINK_AWARE)
def test_sink_aware(folders: dict[str, Path], with_us: Loaded, without_us: Loaded, recipe: str) -> None:
    fresh = with_us[str(folders[recipe]), AUTO]
    assert isinstance(fresh, torch.Tensor), fresh
    assert torch.equal(fresh, loaded(folders[recipe]))
    for how in (AUTO, DIRECT):
        refused = without_us[str(folders[recipe]), how]
        assert isinstance(refused, str)
        assert "Error" in refused


def test_save_pretrained_writes_an_equal_checkpoint(folders: dict[str, Path], with_us: Loaded) -> None:
    again = with_us[str(folders["again"]), AUTO]
    assert isinstance(again, torch.Tensor), again
    assert torch.equal(again, loaded(folders["w8a8-static"]))


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
