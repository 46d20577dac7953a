"""The parts of the plug-in that stand on vLLM's classes; `python -m eval.vllm` checks whole engines."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("vllm", reason="vLLM is not installed: run these tests in the environment of eval/vllm")
    from vllm.exceptions import VLLMValidationError

    from sinkquant.errors import SinkquantError
    from sinkquant.integrations.vllm.attention import CacheWrite
    from sinkquant.integrations.vllm.config import ServedConfig
    from sinkquant.integrations.vllm.linear import ServedLinear, suits_kernel
    from sinkquant.integrations.vllm.mapper import CheckpointMapper
    from sinkquant.integrations.vllm.prompts import PrefixRenderer
    from sinkquant.quantization.scheme import ActivationScheme, KVScheme, LinearScheme, WeightScheme
    from sinkquant.quantization.weights import round_to_nearest
    from sinkquant.runtime.config import SinkquantQuantization
    from sinkquant.runtime.linear import QuantizedLinear
    from sinkquant.runtime.spikes import split_weight

pytestmark = pytest.mark.filterwarnings("ignore")

STATIC = ActivationScheme(8, "static")
INT8 = LinearScheme(WeightScheme(8, limit=63), STATIC)
SCHEMES = {
    "int8": INT8,
    "rotated": replace(INT8, rotate=True),
    "centered": replace(INT8, center=True),
    "routed": replace(INT8, activation=replace(STATIC, route=1.0)),
    "4-bit weights": replace(INT8, weight=WeightScheme(4)),
    "4-bit inputs": replace(INT8, activation=replace(STATIC, bits=4)),
    "asymmetric inputs": replace(INT8, activation=replace(STATIC, symmetric=False)),
    "dynamic, clipped": replace(INT8, activation=ActivationScheme(4, "dynamic", clip=0.8)),
    "groups": replace(INT8, weight=WeightScheme(4, group_size=16)),
    "weight only": LinearScheme(WeightScheme(8)),
    "rotation only": LinearScheme(None, None, rotate=True),
    "spike units": replace(INT8, spikes=2),
    "everything": LinearScheme(WeightScheme(4), replace(STATIC, route=1.0), rotate=True, center=True, spikes=2),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def our_linear(scheme: LinearScheme) -> QuantizedLinear:
    linear = nn.Linear(64, 32)
    linear.weight.data, linear.bias.data = draw(32, 64), draw(32, seed=1)
    spikes = torch.tensor([5, 40]) if scheme.spikes else torch.empty(0, dtype=torch.int64)
    rest, _ = split_weight(linear.weight.data, spikes, scheme.rotate)
    codes = None if scheme.weight is None else round_to_nearest(rest, scheme.weight, search=False)
    span = torch.tensor([3.0 / (127 if scheme.activation and scheme.activation.bits == 8 else 7)])
    zero = torch.tensor([3.0])
    offset = draw(64, seed=2) if scheme.center else None
    return QuantizedLinear.from_linear(linear, scheme, codes, (span, zero), offset, spikes)


def served(ours: QuantizedLinear) -> tuple[ServedLinear, nn.Module]:
    """The same layer as vLLM would build and load it, in two shards of its outputs."""
    method, layer = ServedLinear(ours.scheme), nn.Module()
    layer.input_size_per_partition = 64

    def load(parameter: Any, tensor: Tensor) -> None:
        parameter.data.copy_(tensor)

    method.create_weights(layer, 64, [16, 16], 64, 32, torch.float32, weight_loader=load)
    stored = ours.state_dict()
    for name, parameter in list(layer.named_parameters()):
        load(parameter, stored["bias" if name == "centered_bias" else name])
    layer.bias = nn.Parameter(stored["bias"], requires_grad=False)
    method.process_weights_after_loading(layer)
    return method, layer


@pytest.mark.parametrize("name", SCHEMES)
def test_linears_compute_as_ours(name: str) -> None:
    ours = our_linear(SCHEMES[name])
    method, layer = served(ours)
    assert (method.kernel is not None) is suits_kernel(SCHEMES[name])
    assert suits_kernel(SCHEMES[name]) is (
        name in ("int8", "rotated", "centered", "routed", "4-bit weights", "spike units", "everything")
    )
    x = draw(40, 64, seed=3)
    x[::7] *= 4  # rows beyond the range
    expected = ours(x)
    torch.testing.assert_close(method.apply(layer, x, layer.bias), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, nn.functional.linear(x, draw(32, 64), draw(32, seed=1)), atol=1e-3) or (
        name == "rotation only"
    )


def test_asymmetric_weights_and_devices_are_refused() -> None:
    with pytest.raises(SinkquantError, match=r"weights\.symmetric=true"):
        ServedLinear(replace(INT8, weight=WeightScheme(4, symmetric=False)))
    with pytest.raises(SinkquantError, match="tensor-parallel-size 1"):
        ServedLinear(INT8).create_weights(nn.Module(), 32, [32], 64, 32, torch.float32, weight_loader=None)


@pytest.mark.parametrize("balance", [False, True])
def test_the_rounded_cache_gives_our_scores(balance: bool) -> None:
    """Plain queries on rounded plain keys score as transformed queries on our runtime's keys."""
    from sinkquant.hadamard.transform import fast_hadamard
    from sinkquant.runtime.kv import KVStage, by_head

    scheme = KVScheme(bits=4, rotate=not balance, balance=balance)
    key, value, query = draw(9, 2, 16), draw(9, 2, 16, seed=1), draw(9, 2, 16, seed=2)
    transform = torch.eye(16) + 0.1 * draw(2, 16, 16, seed=3)
    balanced = {
        "key_transform": transform,
        "query_transform": torch.linalg.inv(transform).mT.contiguous(),
        "key_offset": draw(2, 1, 16, seed=4),
        "value_offset": draw(2, 1, 16, seed=5),
    }
    module = nn.Module()
    for name, tensor in balanced.items():
        module.register_buffer(name, tensor)
    key_grid, value_grid = KVStage(scheme).grids(module)
    ours = key.transpose(0, 1)[None]
    queries = query.transpose(0, 1)[None]
    ours = by_head(ours, transform) if balance else fast_hadamard(ours)
    turned = by_head(queries, balanced["query_transform"]) if balance else fast_hadamard(queries)
    write = CacheWrite(None, scheme, None, None, balanced if balance else {})
    keys, values = write.rounded(key, value)
    scores = queries @ keys.transpose(0, 1)[None].mT
    torch.testing.assert_close(scores, turned @ key_grid.fake(ours).mT, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(scores, queries @ key.transpose(0, 1)[None].mT, atol=1e-2)
    torch.testing.assert_close(values.transpose(0, 1), value_grid.fake(value.transpose(0, 1)), atol=1e-5, rtol=1e-5)


def test_tensors_go_where_vllm_has_them() -> None:
    from vllm.model_executor.models.utils import WeightsMapper

    stored = {
        "model.norm.weight": torch.zeros(1, 4),
        "model.layers.0.self_attn.sink_key": torch.zeros(1),
        "model.layers.0.self_attn.key_transform": torch.zeros(1),
        "model.layers.0.mlp.down_proj.bias": torch.zeros(1),
        "model.layers.0.mlp.down_proj.weight_shape": torch.zeros(2),
        "model.layers.0.self_attn.q_proj.bias": torch.zeros(1),
        "model.layers.0.self_attn.q_proj.k_scale": torch.zeros(1),
    }
    ours = CheckpointMapper.of("model.norm", ["model.layers.0.mlp.down_proj"], WeightsMapper())
    theirs = WeightsMapper(orig_to_new_suffix={".q_proj.k_scale": ".attn.k_scale"})
    for mapper in (theirs | ours | WeightsMapper(), ours | theirs):
        found = dict(mapper.apply(stored.items()))
        assert found["model.norm.weight"].shape == (4,)
        assert set(found) == {
            "model.norm.weight",
            "model.layers.0.self_attn.attn.sink_key",
            "model.layers.0.self_attn.attn.key_transform",
            "model.layers.0.mlp.down_proj.centered_bias",
            "model.layers.0.self_attn.q_proj.bias",
            "model.layers.0.self_attn.attn.k_scale",
        }


def test_a_configuration_is_read_back_or_refused() -> None:
    def stored(kv: KVScheme) -> dict[str, Any]:
        made = SinkquantQuantization({"a.q_proj": INT8}, {"a": kv}, 2, {"a": (3, 64, 32)}, ("embed",), "norm", True)
        return made.to_dict()

    config = ServedConfig.from_config(stored(KVScheme(rotate=True)))
    assert config.linears == {"a.q_proj": INT8} and config.shapes == {"a": (3, 64, 32)}
    assert config.stored.prefix_length == 2
    with pytest.raises(SinkquantError, match=r"kv_cache\.recent=0"):
        ServedConfig.from_config(stored(KVScheme(bits=4, recent=128)))


def test_prompts_without_token_ids_are_refused_where_there_is_a_prefix() -> None:
    renderer = PrefixRenderer.__new__(PrefixRenderer)
    embeds = {"prompt_embeds": torch.zeros(3, 4)}
    renderer.model_config = SimpleNamespace(hf_config=SimpleNamespace(sinkquant={"prefix": [7]}))
    assert renderer._completed({"prompt_token_ids": [1]}) == {"prompt_token_ids": [7, 1]}
    with pytest.raises(VLLMValidationError, match="give the prompt as text or token ids"):
        renderer._completed(embeds)
    renderer.model_config = SimpleNamespace(hf_config=SimpleNamespace())
    assert renderer._completed(embeds) is embeds
