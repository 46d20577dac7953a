"""The packed cache: as the simulated one in every way that models and `generate` use a cache, and much smaller."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, Gemma3ForCausalLM, Gemma3TextConfig, StaticCache

import sinkquant
from sinkquant.errors import SinkquantError, UsageError
from sinkquant.models.attention import NAME, register
from sinkquant.quantization.kv import KVGrid
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.cache import SinkCache
from sinkquant.runtime.cache_layer import SinkLayer
from sinkquant.runtime.kv import balance_shapes, install
from sinkquant.runtime.positions import install_positions

SCHEMES = [
    KVScheme(2),
    KVScheme(4, rotate=True),
    KVScheme(4, recent=3, balance=True),
    KVScheme(2, recent=1, clip=0.9),
    KVScheme(8, recent=100, rotate=True),
]
CHUNKS = [[20], [1] * 20, [9, 1, 1, 1, 5, 3]]


def attentions(model: Any) -> list[nn.Module]:
    return [layer.self_attn for layer in model.get_decoder().layers]


def quantized(model: Any, scheme: KVScheme, prefix: int = 2) -> Any:
    """The model with a random prefix, random balancing matrices and `scheme` in every attention."""
    register()
    model.set_attn_implementation(NAME)
    install_positions(model)
    torch.manual_seed(1)
    for module in attentions(model):
        heads, size = module.k_proj.out_features // module.head_dim, module.head_dim
        install(module, scheme, *torch.randn(2, heads, prefix, size).unbind() if prefix else (None, None))
        for name, shape in balance_shapes(heads, size, size).items() if scheme.balance else ():
            module.register_buffer(name, torch.randn(shape) / 4)
        if scheme.balance:  # near the identity: an ill-conditioned inverse would hide the cache's own digits
            module.key_transform.div_(4).add_(torch.eye(size))
            module.query_transform = torch.linalg.inv(module.key_transform).transpose(1, 2).contiguous()
    return model.eval().requires_grad_(False)


def logits(model: Any, ids: torch.Tensor, cache: Any, chunks: list[int]) -> torch.Tensor:
    pieces = [model(piece, past_key_values=cache, use_cache=True).logits for piece in ids.split(chunks, dim=1)]
    return torch.cat(pieces, dim=1)


def generate(model: Any, cache: Any, ids: torch.Tensor, mask: torch.Tensor | None = None, **kwargs: Any) -> list[int]:
    mask = torch.ones_like(ids) if mask is None else mask
    torch.manual_seed(2)
    options = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0} | kwargs
    return model.generate(ids, attention_mask=mask, past_key_values=cache, **options).tolist()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 199, (2, 20), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def tiny_gemma() -> nn.Module:
    config = Gemma3TextConfig(
        vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=6, max_position_embeddings=256, bos_token_id=1,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"], query_pre_attn_scalar=16,
    )  # fmt: skip
    torch.manual_seed(0)
    return Gemma3ForCausalLM(config)


@pytest.mark.parametrize("chunks", CHUNKS, ids=["prefill", "decode", "mixed"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gemma"])
def test_logits_are_those_of_the_simulated_cache(
    name: str, scheme: KVScheme, chunks: list[int], ids: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    model = quantized(request.getfixturevalue(name), scheme)
    expected = logits(model, ids, DynamicCache(config=model.config), chunks)
    made = logits(model, ids, SinkCache(model), chunks)
    # A transform of one token may differ in its last digit from that of many; codes hide it, exact tokens do not.
    tolerance = 1e-5 if scheme.recent else 0
    torch.testing.assert_close(made, expected, atol=tolerance, rtol=tolerance)
    exact = logits(quantized(model, KVScheme(16, balance=scheme.balance)), ids, None, [20])
    if scheme.bits < 8:
        assert (exact - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gemma"])
@pytest.mark.parametrize("recent", [0, 4])
def test_generate_with_every_search(name: str, recent: int, ids: torch.Tensor, request: pytest.FixtureRequest) -> None:
    model = quantized(request.getfixturevalue(name), KVScheme(4, recent=recent, rotate=True))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    searches: list[dict[str, Any]] = [
        {}, {"do_sample": True, "top_k": 20}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2}, {"prefill_chunk_size": 6},
    ]  # fmt: skip
    for options in searches:
        expected = generate(model, DynamicCache(config=model.config), ids, mask, **options)
        assert generate(model, SinkCache(model), ids, mask, **options) == expected, options
    static = StaticCache(config=model.config, max_cache_len=40)
    assert generate(model, static, ids, mask) == generate(model, SinkCache(model), ids, mask)
    single = {"prompt_lookup_num_tokens": 3, "max_new_tokens": 12}
    repeated = ids[:1].repeat(1, 2)
    expected = generate(model, None, repeated, max_new_tokens=12)
    assert generate(model, SinkCache(model), repeated, **single) == expected


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gemma"])
def test_a_chat_goes_on_with_the_same_cache(name: str, ids: torch.Tensor, request: pytest.FixtureRequest) -> None:
    model = quantized(request.getfixturevalue(name), KVScheme(4, recent=2))
    replies = []
    for cache in (DynamicCache(config=model.config), SinkCache(model)):
        first = torch.tensor(generate(model, cache, ids[:1]))
        replies.append(generate(model, cache, torch.cat([first, ids[1:]], dim=1)))
    assert replies[0] == replies[1]


def test_crop_forgets_the_newest_tokens(tiny_llama: nn.Module, ids: torch.Tensor) -> None:
    # In float64, because keys of one text in other pieces differ by rounding, which may tip a code to its neighbour.
    model = quantized(tiny_llama.double(), KVScheme(4, rotate=True))
    cache = SinkCache(model)
    expected = logits(model, ids, cache, [15, 5])[:, 12:]
    cache.crop(-8)
    assert cache.get_seq_length() == 12
    torch.testing.assert_close(logits(model, ids[:, 12:], cache, [4, 4]), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="negative"):
        cache.crop(3)
    cache.crop(-50)
    assert cache.get_seq_length() == 0


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gemma"])
def test_a_recorded_past_comes_back_whole(name: str, ids: torch.Tensor, request: pytest.FixtureRequest) -> None:
    model = quantized(request.getfixturevalue(name), KVScheme(4, recent=3))
    cache, plain = SinkCache(model), DynamicCache(config=model.config)
    for x in (cache, plain):
        x.activate_past_recording()
        logits(model, ids[:, :10], x, [10])
        x.crop(0)
        logits(model, ids[:, 10:18], x, [5, 3])
        x.crop(-6)
    made, expected = (logits(model, ids[:, 12:], x, [1, 7]) for x in (cache, plain))
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


def test_after_a_crop_packed_tokens_stay_packed(tiny_llama: nn.Module, ids: torch.Tensor) -> None:
    model = quantized(tiny_llama, KVScheme(2, recent=4))
    cache = SinkCache(model)
    logits(model, ids, cache, [20])
    cache.crop(-3)  # one exact token is left
    layer = cache.layers[0]
    assert (layer.states[0].packed, layer.states[0].length) == (16, 17)
    before = layer.states[0].codes.clone()
    assert logits(model, ids[:, 17:], cache, [2, 1]).isfinite().all()
    assert (layer.states[0].packed, layer.states[0].length) == (16, 20)
    assert torch.equal(layer.states[0].codes, before)


def test_a_window_layer_keeps_its_window_alone(tiny_gemma: nn.Module, ids: torch.Tensor) -> None:
    model = quantized(tiny_gemma, KVScheme(4, recent=2))
    cache = SinkCache(model)
    logits(model, ids, cache, [20])
    assert [layer.states[0].length for layer in cache.layers] == [5, 20, 5]
    assert [layer.states[0].packed for layer in cache.layers] == [3, 18, 3]
    assert cache.is_sliding == [True, False, True]
    with pytest.raises(UsageError, match="activate_past_recording"):
        cache.crop(-2)


def test_nothing_is_encoded_twice(tiny_llama: nn.Module, ids: torch.Tensor) -> None:
    model = quantized(tiny_llama, KVScheme(4, recent=2))
    cache = SinkCache(model)
    logits(model, ids[:, :12], cache, [12])
    before = [x.clone() for x in vars(cache.layers[1].states[1]).values()]
    logits(model, ids[:, 12:], cache, [1] * 8)
    after = vars(cache.layers[1].states[1]).values()
    for old, new in zip(before[:3], after, strict=False):
        assert torch.equal(new[:, :, :10], old)


def test_rows_can_be_chosen_and_repeated_and_copied(tiny_llama: nn.Module, ids: torch.Tensor) -> None:
    model = quantized(tiny_llama, KVScheme(4, recent=3, balance=True))
    made, plain = SinkCache(model), DynamicCache(config=model.config)
    for cache in (made, plain):
        logits(model, ids[:, :10], cache, [10])
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([3, 2, 0, 1]))
        cache.batch_select_indices(torch.tensor([0, 2, 3]))
    twin = copy.deepcopy(made)
    rest = ids[[1, 0, 0], 10:]
    expected = logits(model, rest, plain, [10])
    for cache in (made, twin):
        torch.testing.assert_close(logits(model, rest, cache, [10]), expected, atol=1e-5, rtol=1e-5)
    made.reset()
    assert made.get_seq_length() == made.nbytes == 0
    assert torch.equal(logits(model, ids, made, [20]), logits(model, ids, SinkCache(model), [20]))


@pytest.mark.parametrize(("bits", "limit"), [(2, 0.19), (4, 0.30), (8, 0.56)])
def test_memory_at_8192_tokens(bits: int, limit: float) -> None:
    layer = SinkLayer(KVScheme(bits, recent=128))
    for length in (8000, 191, 1):
        states = torch.randn(1, 3, length, 64, dtype=torch.bfloat16)
        layer.write(states, states, (KVGrid(bits), KVGrid(bits)))
    assert layer.get_seq_length() == 8192
    assert layer.nbytes <= limit * (2 * 3 * 8192 * 64 * 2)


def test_what_cannot_be_packed_is_refused(tiny_llama: nn.Module, ids: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="no quantized"):
        SinkCache(tiny_llama)
    model = quantized(copy.deepcopy(tiny_llama), KVScheme(4))
    with pytest.raises(SinkquantError, match="another model"):
        tiny_llama.set_attn_implementation(NAME)
        tiny_llama(ids, past_key_values=SinkCache(model))
    model.set_attn_implementation("sdpa")
    with pytest.raises(UsageError, match="set_attn_implementation"):
        SinkCache(model)


def test_it_is_exported_lazily() -> None:
    assert sinkquant.SinkCache is SinkCache


@pytest.mark.parametrize(("dtype", "recent"), [(torch.float32, 8), (torch.bfloat16, 0)])
def test_a_trained_model_writes_the_same(model_folder: Path, dtype: torch.dtype, recent: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=dtype)
    quantized(model, KVScheme(4, recent=recent, rotate=True), prefix=0)
    ids = torch.randint(0, 250, (1, 24), generator=torch.Generator().manual_seed(0))
    expected = logits(model, ids, DynamicCache(config=model.config), [16, 1, 7])
    made = logits(model, ids, SinkCache(model), [16, 1, 7])
    assert (made - expected).abs().max() <= (1e-3 if recent else 0)  # of logits up to 30
    options = {"max_new_tokens": 4}
    assert generate(model, SinkCache(model), ids, **options) == generate(model, None, ids, **options)
