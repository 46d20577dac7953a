"""Loading all at once against `from_pretrained`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, initialization

from sinkquant.formats.compressed import own_quantization
from sinkquant.quantization.scheme import LinearScheme, WeightScheme
from sinkquant.runtime.assemble import assemble
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import Apart

AUTO = "AutoModelForCausalLM"


def configuration(folder: Path, portable: bool) -> Any:
    config = AutoConfig.from_pretrained(folder)
    if portable:
        config.quantization_config = own_quantization(folder, config.quantization_config).to_dict()
    return config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "auto"])
@pytest.mark.parametrize("recipe", ["w8a8-static", "w4a4kv4", "kv4", "w4a16"])
def test_equal_to_from_pretrained(quantized: Callable[..., Path], recipe: str, dtype: torch.dtype | str) -> None:
    portable = recipe == "w4a16"
    folder = quantized(recipe) if portable else quantized(recipe, "sinks.prefix=[1]")
    expected = AutoModelForCausalLM.from_pretrained(folder, config=configuration(folder, portable), dtype=dtype).eval()
    model = assemble(folder, configuration(folder, portable), AUTO, dtype)
    assert model is not None
    assert model.config.to_dict() == expected.config.to_dict()
    assert model.generation_config.to_dict() == expected.generation_config.to_dict()
    assert (model.name_or_path, model.training, model.dtype) == (str(folder), False, expected.dtype)

    def everything(model: Any) -> dict[str, torch.Tensor]:
        return {**dict(model.named_parameters()), **dict(model.named_buffers())}

    theirs, ours = everything(expected), everything(model)
    assert theirs.keys() == ours.keys()
    for name, tensor in theirs.items():
        assert tensor.dtype == ours[name].dtype, name
        assert torch.equal(tensor, ours[name]), name
    ids = torch.tensor([[5, 17, 100, 23, 42, 7]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected(ids).logits)


def test_models_may_initialize_what_stands_apart() -> None:
    linear = QuantizedLinear(8, 4, LinearScheme(WeightScheme(8)), bias=True)
    place = Apart(linear)
    initialization.normal_(place.weight)
    assert not [*place.state_dict(), *place.children(), *place.parameters()]
    assert place.held == (linear,)


def test_a_class_that_transformers_does_not_name_is_left_to_it(tmp_path: Path) -> None:
    assert assemble(tmp_path, AutoConfig.for_model("vit"), AUTO, torch.float32) is None
