"""`weight` of a module that holds codes: a float tensor for whoever reads it, and the codes on disk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from sinkquant.quantization.scheme import ActivationScheme, LinearScheme, WeightScheme
from sinkquant.quantization.weights import round_to_nearest
from sinkquant.runtime.embedding import SCHEME, QuantizedEmbedding
from sinkquant.runtime.linear import QuantizedLinear

SCHEMES = {
    "int8": LinearScheme(WeightScheme(8)),
    "int8, static inputs": LinearScheme(WeightScheme(8), ActivationScheme(8, "static")),
    "words": LinearScheme(WeightScheme(4, group_size=32)),
    "words with zero points": LinearScheme(WeightScheme(4, symmetric=False)),
    "float": LinearScheme(None, ActivationScheme(8, "static")),
}
PLAIN = ["int8", "words", "words with zero points"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def coded(kind: str, dtype: torch.dtype) -> tuple[Any, torch.Tensor]:
    """A module with codes in a model of that dtype, and the weight that it was made from."""
    torch.manual_seed(0)
    if kind == "embedding":
        table = nn.Embedding(24, 64, dtype=dtype).requires_grad_(False)
        codes = round_to_nearest(table.weight, SCHEME, search=False)
        return QuantizedEmbedding.from_embedding(table, codes), table.weight.detach()
    module, scheme = nn.Linear(64, 24, dtype=dtype).requires_grad_(False), SCHEMES[kind]
    weight = None if scheme.weight is None else round_to_nearest(module.weight.detach(), scheme.weight, search=False)
    limits = torch.tensor([0.02]), torch.zeros(1)
    return QuantizedLinear.from_linear(module, scheme, weight, limits), module.weight.detach()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [*SCHEMES, "embedding"])
def test_weight_is_float_and_close(kind: str, dtype: torch.dtype) -> None:
    module, weight = coded(kind, dtype)
    assert (module.weight.dtype, module.weight.device, module.weight.shape) == (dtype, weight.device, weight.shape)
    assert (module.weight.float() - weight.float()).norm() <= 0.15 * weight.float().norm()


@pytest.mark.parametrize("kind", PLAIN)
def test_who_multiplies_by_it_gets_what_the_layer_computes(kind: str) -> None:
    module, _ = coded(kind, torch.float32)
    x = torch.randn(5, 64)
    assert torch.equal(linear(x, module.weight, module.bias), module(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [*SCHEMES, "embedding"])
def test_what_is_stored_keeps_its_type_wherever_the_module_goes(kind: str, dtype: torch.dtype) -> None:
    module, _ = coded(kind, torch.float32)
    before = dict(module.named_buffers())
    module.to(torch.float16).to(dtype)
    after = dict(module.named_buffers())
    assert module.weight.dtype == dtype
    assert all(after[name].dtype == x.dtype and torch.equal(after[name], x) for name, x in before.items())
    x = torch.arange(3) if kind == "embedding" else torch.randn(3, 64, dtype=dtype)
    assert module(x).dtype == dtype


@pytest.mark.parametrize("kind", ["int8", "int8, static inputs", "embedding"])
def test_codes_stay_codes_on_disk(kind: str) -> None:
    module, _ = coded(kind, torch.float32)
    assert module.state_dict()["weight"].dtype == torch.int8
