"""Inspection counts what is stored, agrees with the model, and builds none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import sinkquant
from sinkquant.api.inspect import inspect
from sinkquant.formats.inspection import Inspection, Part
from sinkquant.formats.stored import Stored, stored_weights


@pytest.fixture(scope="module")
def static(quantized: Callable[..., Path]) -> Path:
    return quantized("w8a8-static", "sinks.prefix=[1]", "kv_cache.bits=4")


@pytest.fixture(scope="module")
def portable(quantized: Callable[..., Path]) -> Path:
    return quantized("w4a16")


def part_of(found: Inspection, kind: str) -> Part:
    return next(part for part in (*found.quantized, *found.floats) if kind in part.kinds)


def test_a_sink_aware_checkpoint(static: Path) -> None:
    found = inspect(static)
    down, query = part_of(found, "down_proj"), part_of(found, "q_proj")
    inputs = "8 bits static, outlier tokens in float"
    assert (down.scheme.weights, down.scheme.inputs, down.scheme.rotated) == ("8 bits", inputs, True)
    assert (query.scheme.rotated, query.modules) == (False, 18)
    assert (found.prefix, found.kv["bits"]) == ((1,), 4)
    assert any(text.startswith("R1") for text in found.fused)
    assert "rotated inputs (3 linears)" in found.online
    loads = {one.name: one.loads for one in found.runtimes}
    assert loads["transformers + sinkquant"] and not loads["transformers"] and not loads["vLLM"]
    assert {kind for part in found.floats for kind in part.kinds} == {
        "input_layernorm", "post_attention_layernorm", "norm",
    }  # fmt: skip


def test_bits_and_shares_agree_with_the_tensors_and_the_model(portable: Path, model_folder: Path) -> None:
    found = inspect(portable)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    adds = sum(m.weight.numel() for m in linears.values())
    down = part_of(found, "down_proj")
    ours = sum(m.weight.numel() for n, m in linears.items() if n.endswith("down_proj"))
    assert down.parameters == ours  # rows of 172 weights do not fill their last word
    assert down.multiply_add_share == pytest.approx(ours / adds)
    stored = {name: t for path in portable.glob("*.safetensors") for name, t in load_file(path).items()}
    assert down.bits == pytest.approx(8 * sum(t.nbytes for n, t in stored.items() if ".down_proj." in n) / ours)
    everything = (*found.quantized, *found.floats)
    assert sum(part.parameter_share for part in everything) == pytest.approx(1)
    assert sum(part.multiply_add_share for part in everything) == pytest.approx(1)
    assert part_of(found, "embed_tokens").multiply_add_share == 0  # a lookup; the head is stored apart
    assert found.bits == pytest.approx(
        8 * sum(t.nbytes for t in stored.values()) / sum(p.parameters for p in everything)
    )
    assert all(one.loads for one in found.runtimes)


def test_a_tied_embedding_has_the_work_of_the_head(quantized: Callable[..., Path]) -> None:
    found = inspect(quantized("kv4", "sinks.prefix=none", "sinks.exclude=false", "kv_cache.balance=false"))
    assert found.quantized == ()
    assert part_of(found, "embed_tokens").multiply_add_share > 0.1


@pytest.mark.parametrize("shape", [(), (7,), (1, 7), (7, 1, 1)])
def test_counts_scales_and_biases_multiply_nothing(shape: tuple[int, ...]) -> None:
    tensors = {"norm.num_batches_tracked": Stored("F32", shape, 28), "up.weight": Stored("F32", (5, 7), 140)}
    assert [weight.multiply_adds for weight in stored_weights(tensors, {})] == [0, 35]


def test_an_empty_tensor_is_no_weight() -> None:
    tensors = {"register_tokens": Stored("F32", (1, 0, 64), 0), "up.weight": Stored("F32", (5, 7), 140)}
    assert [weight.name for weight in stored_weights(tensors, {})] == ["up"]


def test_no_model_is_built(static: Path) -> None:
    code = (
        "import sys\nfrom sinkquant.api.inspect import inspect\n"
        f"inspect({str(static)!r})\nprint({{'torch', 'transformers'}} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sinkquant.SinkquantError, match=r"has no sinkquant\.json"):
        inspect(tmp_path)
    with pytest.raises(sinkquant.UsageError, match="is no folder"):
        inspect(tmp_path / "nothing")
