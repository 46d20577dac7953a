"""Portable checkpoints of mixtures: every expert packed, under the hub's names, for everyone who loads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

import sinkquant
from eval.families import build, job
from sinkquant.models.experts import expert_linears
from sinkquant.runtime.linear import QuantizedLinear
from tests.proved import as_proved

ROUTERS = {"mixtral": "block_sparse_moe.gate", "qwen2_moe": "mlp.gate", "deepseek_v3": "mlp.gate", "olmoe": "mlp.gate"}
BITS = {"w4a16": "4 bits", "w8a8": "8 bits"}
PLACES = ["embed_tokens", "norm", "rotary_emb", *(f"layers.{index}" for index in range(4))]
MAP = {"lm_head": "cpu", **{f"model.{name}": "disk" if name[-1] in "12" else "cpu" for name in PLACES}}
IDS = torch.arange(3, 40)[None]


@pytest.fixture(scope="module", params=ROUTERS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "text.txt").write_text(build.text(), encoding="utf-8")
    build.build(request.param, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module", params=BITS)
def made(source: Path, request: pytest.FixtureRequest) -> Any:
    return sinkquant.quantize(
        source, recipe=request.param, output=source.with_name(request.param), overrides=(*job.SMALL, "tuning.epochs=0"),
        calibration=str(source.with_name("text.txt")),
    )  # fmt: skip


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS, use_cache=False).logits  # type: ignore[no-any-return]


def modules(folder: Path) -> set[str]:
    """Names of the modules that have tensors in `folder`."""
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        return {key.rpartition(".")[0] for key in tensors.keys()}  # noqa: SIM118


def test_every_expert_is_packed_under_the_name_of_the_hub(source: Path, made: Any) -> None:
    assert modules(made.path) == modules(source)
    config = json.loads((made.path / "config.json").read_text())
    router = ROUTERS[config["model_type"]]
    assert any(name.endswith(f"layers.2.{router}") for name in config["quantization_config"]["ignore"])
    model = AutoModelForCausalLM.from_pretrained(source)
    routers = sum(p.numel() for name, p in model.named_parameters() if name.endswith("gate.weight"))
    sizes = job.block_sizes(model)
    assert job.float_share(sizes, made.plan) == pytest.approx(routers / sum(sizes.values()))
    found = sinkquant.inspect(made.path)
    assert {part.scheme.weights.split(" in")[0] for part in found.quantized} == {BITS[found.recipe]}
    assert sum(part.modules for part in found.quantized) == len(made.plan.linears)
    (vllm,) = [one.loss for one in found.runtimes if one.name == "vLLM"]
    assert f"experts of {BITS[found.recipe]} run on GPUs" in vllm


def test_every_loader_gives_the_same_logits(made: Any, tmp_path: Path) -> None:
    model = sinkquant.load(made.path)
    assert as_proved(model, made.path)
    experts = [model.get_submodule(name) for name in expert_linears(model)]
    assert experts
    assert all(isinstance(one, QuantizedLinear) and one.quantized_weight().codes.dtype == torch.int8 for one in experts)
    expected = logits(model)
    model.save_pretrained(tmp_path / "again")
    for folder in (made.path, tmp_path / "again"):
        stock, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert torch.equal(logits(stock), expected)
    spread = sinkquant.load(
        made.path, device_map=MAP, offload_folder=tmp_path / "away"
    )  # transformers reads the tensors
    assert any(tensor.is_meta for name in expert_linears(spread) for tensor in spread.get_submodule(name).buffers())
    assert torch.equal(logits(spread), expected)


@pytest.mark.parametrize("target", ["portable", "sink-aware"])
def test_a_recipe_that_is_chosen_rounds_them_too(source: Path, target: str) -> None:
    planned = sinkquant.quantize(
        source, output=None, dry_run=True, bits=4, target=target, overrides=job.SMALL,
        calibration=str(source.with_name("text.txt")),
    )  # fmt: skip
    experts = [name for name, scheme in planned.plan.linears.items() if ".experts." in name and scheme.weight]
    assert len(experts) == 3 * 4 * (3 if "deepseek" in str(source) else 4)
