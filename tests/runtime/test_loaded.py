"""What a checkpoint lacks, or holds in another form, is an error of every loader, with the tensor's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import sinkquant
from sinkquant.errors import SinkquantError
from sinkquant.formats.manifest import read_manifest, write_manifest

COMMON = ["calibration.length=64", "calibration.sequences=2", "weights.method=rtn", "transforms.r4=false"]
IDS = torch.tensor([[5, 17, 100, 23, 42, 7]])
KINDS = {"w8a8-static": ["sinks.prefix=[1]"], "w8a8": [], "w4a16": []}


@pytest.fixture(scope="module")
def checkpoints(model_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp("made") / name for name in KINDS}
    for name, wishes in KINDS.items():
        overrides = [wish for wish in COMMON if name == "w8a8-static" or "r4" not in wish]
        sinkquant.quantize(
            model_folder, recipe=name, output=made[name], overrides=[*overrides, *wishes], calibration=str(text_file)
        )
    return made


def edited(folder: Path, copy: Path, edit: Callable[[dict[str, Tensor]], Any]) -> Path:
    shutil.copytree(folder, copy)
    with safe_open(copy / "model.safetensors", "pt") as stored:
        tensors, metadata = {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata()  # noqa: SIM118
    edit(tensors)
    save_file(tensors, copy / "model.safetensors", metadata)
    return copy


KEY, LINEAR = "model.layers.1.self_attn.sink_key", "model.layers.0.mlp.up_proj"
EDITS: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any], str]] = {
    "no prefix": ("w8a8-static", lambda t: t.pop(KEY), KEY),
    "prefix of NaN": ("w8a8-static", lambda t: t[KEY].fill_(torch.nan), KEY),
    "prefix of integers": ("w8a8-static", lambda t: t.update({KEY: t[KEY].int()}), KEY),
    "prefix of another length": ("w8a8-static", lambda t: t.update({KEY: t[KEY].repeat(1, 2, 1)}), KEY),
    "no codes": ("w8a8-static", lambda t: t.pop(LINEAR + ".weight"), LINEAR),
    "codes as floats": ("w8a8-static", lambda t: t.update({LINEAR + ".weight": t[LINEAR + ".weight"].float()}), LINEAR),
    "no scale": ("w8a8-static", lambda t: t.pop(LINEAR + ".weight_scale"), LINEAR),
    "endless scale": ("w8a8-static", lambda t: t[LINEAR + ".weight_scale"].fill_(torch.inf), LINEAR),
    "no input scale": ("w8a8-static", lambda t: t.pop(LINEAR + ".input_scale"), LINEAR),
    "float norm of NaN": ("w8a8-static", lambda t: t["model.layers.0.input_layernorm.weight"].fill_(torch.nan), "norm"),
    "no norm": ("w8a8-static", lambda t: t.pop("model.layers.0.input_layernorm.weight"), "input_layernorm"),
    "an adapter's tensor": ("w8a8-static", lambda t: t.update({LINEAR + ".lora_A.weight": torch.ones(1)}), "lora_A"),
    "a bias without place": ("w8a8-static", lambda t: t.update({LINEAR + ".bias": torch.ones(1)}), "up_proj.bias"),
    "portable, no codes": ("w8a8", lambda t: t.pop(LINEAR + ".weight"), LINEAR),
    "portable, no scale": ("w8a8", lambda t: t.pop(LINEAR + ".weight_scale"), LINEAR),
    "portable, no words": ("w4a16", lambda t: t.pop(LINEAR + ".weight_packed"), LINEAR),
    "portable, NaN": ("w4a16", lambda t: t[LINEAR + ".weight_scale"].fill_(torch.nan), LINEAR),
}  # fmt: skip


@pytest.mark.parametrize("execution", ["reference", "auto"])
@pytest.mark.parametrize("case", EDITS)
def test_load_names_the_tensor(checkpoints: dict[str, Path], tmp_path: Path, case: str, execution: Any) -> None:
    kind, edit, named = EDITS[case]
    folder = edited(checkpoints[kind], tmp_path / "edited", edit)
    with pytest.raises(SinkquantError, match=named):
        sinkquant.load(folder, execution=execution, checksums=False)


OWN = [
    case
    for case, (kind, _, named) in EDITS.items()
    if kind == "w8a8-static" and named in (KEY, LINEAR) and "floats" not in case
]


@pytest.mark.parametrize("case", OWN)
def test_from_pretrained_names_the_tensor(checkpoints: dict[str, Path], tmp_path: Path, case: str) -> None:
    kind, edit, named = EDITS[case]
    folder = edited(checkpoints[kind], tmp_path / "edited", edit)
    with pytest.raises((SinkquantError, RuntimeError), match=named if "length" not in case else "size|mismatch"):
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_without_quantization_is_named(checkpoints: dict[str, Path], tmp_path: Path, kind: str) -> None:
    folder = edited(checkpoints[kind], tmp_path / "edited", lambda tensors: None)
    facts = read_manifest(folder).model_dump(exclude_unset=True)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    write_manifest(folder, facts)
    with pytest.raises(SinkquantError, match="quantization_config"):
        sinkquant.load(folder, checksums=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stored_dtype_is_stated(checkpoints: dict[str, Path], kind: str) -> None:
    stated = json.loads((checkpoints[kind] / "config.json").read_text())["dtype"]
    with safe_open(checkpoints[kind] / "model.safetensors", "pt") as stored:
        assert f"torch.{stated}" == str(stored.get_tensor("model.layers.0.input_layernorm.weight").dtype)
    assert str(sinkquant.load(checkpoints[kind], dtype="auto").dtype) == f"torch.{stated}"
    assert sinkquant.load(checkpoints[kind]).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_threads_load_the_same_model(checkpoints: dict[str, Path], kind: str) -> None:
    def logits(_: int) -> Tensor:
        model = sinkquant.load(checkpoints[kind])
        with torch.no_grad():
            return model(IDS).logits

    expected = logits(0)
    with ThreadPoolExecutor(8) as threads:
        assert all(torch.equal(found, expected) for found in threads.map(logits, range(16)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_agree_in_every_dtype(checkpoints: dict[str, Path], kind: str, dtype: torch.dtype) -> None:
    expected = sinkquant.load(checkpoints[kind])(IDS).logits
    for execution in ("reference", "auto"):
        model = sinkquant.load(checkpoints[kind], dtype=dtype, execution=execution)  # type: ignore[arg-type]
        found = model(IDS).logits.float()
        assert (found - expected).norm() <= 0.05 * expected.norm(), execution
