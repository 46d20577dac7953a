"""Written checkpoints: bit-exact in a fresh process, refused by stock loaders where they need our code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sinkquant
from sinkquant.checkpoint.manifest import read_manifest, write_manifest

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
COMMON = ["calibration.length=64", "calibration.sequences=4"]


def logits_in_fresh_process(folder: Path, how: str, out: Path) -> torch.Tensor | str:
    """Logits, or the end of the error."""
    done = subprocess.run([sys.executable, "-c", LOAD, folder, out, how], capture_output=True, text=True, check=False)
    return torch.load(out) if done.returncode == 0 else done.stderr[-2000:]


def make(stories_path: Path, tmp_path: Path, recipe: str, *overrides: str) -> Path:
    sinkquant.quantize(stories_path, recipe=recipe, output=tmp_path / recipe, overrides=[*COMMON, *overrides])
    return tmp_path / recipe


@pytest.mark.parametrize("recipe", ["w8a8-static", "w4a4kv4", "kv4"])
def test_sink_aware(stories_path: Path, tmp_path: Path, recipe: str) -> None:
    folder = make(stories_path, tmp_path, recipe, "sinks.prefix=[1]")
    ours = sinkquant.load(folder, dtype=torch.float32)(torch.tensor(IDS)).logits
    fresh = logits_in_fresh_process(folder, "ours", tmp_path / "ours.pt")
    assert isinstance(fresh, torch.Tensor), fresh
    assert torch.equal(fresh, ours)
    for how in ("stock", "direct"):
        refused = logits_in_fresh_process(folder, how, tmp_path / "stock.pt")
        assert isinstance(refused, str)
        assert "Error" in refused


def test_save_pretrained_writes_an_equal_checkpoint(stories_path: Path, tmp_path: Path) -> None:
    model = sinkquant.load(make(stories_path, tmp_path, "w4a8kv4", "sinks.prefix=[1]"), dtype=torch.float32)
    model.save_pretrained(tmp_path / "again")
    again = logits_in_fresh_process(tmp_path / "again", "ours", tmp_path / "again.pt")
    assert isinstance(again, torch.Tensor), again
    assert torch.equal(again, model(torch.tensor(IDS)).logits)


@pytest.mark.parametrize("recipe", ["w8a8", "w4a16"])
def test_portable_loads_without_us(stories_path: Path, tmp_path: Path, recipe: str) -> None:
    folder = make(stories_path, tmp_path, recipe, "sinks.max_prefix=4")
    ours = sinkquant.load(folder, dtype=torch.float32)(torch.tensor(IDS)).logits
    stock = logits_in_fresh_process(folder, "stock", tmp_path / "stock.pt")
    assert isinstance(stock, torch.Tensor), stock
    assert (stock - ours).abs().max() <= 1e-4 * ours.abs().max()


def test_a_changed_byte_is_named(stories_path: Path, tmp_path: Path) -> None:
    folder = make(stories_path, tmp_path, "kv4", "sinks.prefix=none")
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    expected = read_manifest(folder).files["model.safetensors"]
    with pytest.raises(sinkquant.SinkquantError, match=f"its checksum is not {expected}"):
        sinkquant.load(folder)
    assert sinkquant.load(folder, checksums=False) is not None


def test_an_existing_folder_is_kept_and_replaced_only_when_complete(stories_path: Path, tmp_path: Path) -> None:
    folder = make(stories_path, tmp_path, "kv4", "sinks.prefix=none")
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(sinkquant.UsageError, match="exists and is kept"):
        make(stories_path, tmp_path, "kv4")
    sinkquant.quantize(stories_path, recipe="kv4", output=folder, overrides=COMMON, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert sinkquant.load(folder) is not None


def test_tied_embeddings_are_stored_once(stories_path: Path, tmp_path: Path) -> None:
    folder = make(stories_path, tmp_path, "kv4", "sinks.prefix=none", "export.dtype=float32")
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    original = sum(path.stat().st_size for path in stories_path.glob("*.safetensors"))
    added = 5 * 2 * 4 * (8 * 8 + 8) * 4  # blocks x (keys, values) x KV heads x (transform, offset) in float32
    assert stored < original + added + 8_000


def test_loading_and_writing_draw_no_bars(
    stories_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sinkquant.load(make(stories_path, tmp_path, "w8a8"))  # compressed-tensors draws four bars of its own
    assert capfd.readouterr() == ("", "")


def test_a_prefix_of_another_model_is_refused(stories_path: Path, tmp_path: Path) -> None:
    folder = make(stories_path, tmp_path, "kv4", "sinks.prefix=[1]")
    config = json.loads((folder / "config.json").read_text())
    config["sinkquant"]["model_fingerprint"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    write_manifest(folder, json.loads((folder / "sinkquant.json").read_text()))
    with pytest.raises(sinkquant.SinkquantError, match="belongs to another model"):
        sinkquant.load(folder)
