"""`load(execution="auto")`: both kinds of checkpoint on integer kernels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import sinkquant
from sinkquant.runtime.linear import QuantizedLinear

IDS = torch.tensor([[5, 17, 100, 23, 42, 7]])


@pytest.mark.parametrize("recipe", ["w8a8-static", "w8a8", "w4a16"])
def test_auto_agrees_with_the_reference(quantized: Callable[..., Path], tmp_path: Path, recipe: str) -> None:
    out = quantized(recipe)
    reference = sinkquant.load(out, dtype=torch.float32)
    model = sinkquant.load(out, dtype=torch.float32, execution="auto")
    for packed in (reference, model):
        assert any(isinstance(module, QuantizedLinear) for module in packed.modules())
    expected = reference(IDS).logits
    assert (model(IDS).logits - expected).norm() <= 2e-2 * expected.norm()

    model.save_pretrained(tmp_path / "again")  # what is stored does not depend on the kernels
    before, after = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name].to(tensor.dtype)) for name, tensor in before.items())
    stated = [json.loads((folder / "config.json").read_text()) for folder in (out, tmp_path / "again")]
    assert stated[0]["quantization_config"] == stated[1]["quantization_config"]  # portable ones are so again
    again = type(model).from_pretrained(tmp_path / "again", dtype=torch.float32)
    assert torch.equal(again(IDS).logits, expected)


@pytest.mark.parametrize("execution", ["reference", "auto"])
@pytest.mark.parametrize("recipe", ["w8a8-static", "w8a8", "w4a16"])
def test_nothing_needs_gradients(quantized: Callable[..., Path], recipe: str, execution: Any) -> None:
    model = sinkquant.load(quantized(recipe), execution=execution)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model(IDS).logits.requires_grad  # with which no layer would use a kernel


def test_an_unknown_execution_is_named(tmp_path: Path) -> None:
    with pytest.raises(sinkquant.UsageError, match="reference"):
        sinkquant.load(tmp_path, execution="refrence")  # type: ignore[arg-type]


class Batched(TorchDispatchMode):
    """Shapes of matrices that are multiplied once for each sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default:
            self.shapes.append(tuple(args[1].shape[1:]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("execution", ["reference", "auto"])
@pytest.mark.parametrize("recipe", ["w8a8-static", "w8a8"])
def test_no_sequence_gets_a_head_of_its_own(
    quantized: Callable[..., Path], recipe: str, execution: Literal["reference", "auto"]
) -> None:
    model = sinkquant.load(quantized(recipe), dtype=torch.float32, execution=execution)
    head = model.get_output_embeddings()
    with torch.no_grad(), Batched() as batched:
        model(IDS.expand(8, -1), logits_to_keep=1)
    assert (head.in_features, head.out_features) not in batched.shapes
