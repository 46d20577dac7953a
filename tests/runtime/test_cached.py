"""Keys and values rounded where they are cached: as a reference in float64 rounds them, through any cache or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BartConfig, BartForConditionalGeneration, DynamicCache

import sinkquant
from sinkquant.errors import SinkquantError
from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.models.cached import NONE_KEPT, UNUSED, find_cached
from sinkquant.models.record import record, token_probe
from sinkquant.models.trace import trace_roles
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.cache import SinkCache
from sinkquant.runtime.cache_layer import SinkLayer
from sinkquant.runtime.cached import STAGE, install_cached
from tests.families import make
from tests.tiny import byte_tokenizer

SCHEME = KVScheme(4, rotate=True)
ONES = ("Bloom", "GPTJ", "Falcon", "DiffLlama")  # alibi, interleaved rotary, one head for all queries, two attentions
CHUNKS = [[20], [1] * 20, [9, 1, 1, 1, 5, 3]]


def quantized(model: Any, scheme: KVScheme = SCHEME) -> Any:
    for block in trace_roles(model).blocks:
        for cached in block.cached:
            install_cached(model.get_submodule(cached.module), scheme, cached, model.config)
    return model


def ids() -> Tensor:
    return torch.randint(3, 97, (2, 20), generator=torch.Generator().manual_seed(3))


def logits(model: Any, tokens: Tensor, cache: Any, chunks: list[int]) -> Tensor:
    pieces = [model(piece, past_key_values=cache, use_cache=True).logits for piece in tokens.split(chunks, dim=1)]
    return torch.cat(pieces, dim=1)


def rounded(x: Tensor, bits: int = 4) -> Tensor:
    """x (…, d) in float64: rotated, one float16 scale and minimum a row, rotated back."""
    basis = fast_hadamard(torch.eye(x.shape[-1], dtype=torch.float64))
    turned = x @ basis
    low = turned.amin(-1, keepdim=True).half().double()
    top = 2**bits - 1
    scale = ((turned.amax(-1, keepdim=True) - low) / top).half().double()
    return (((turned - low) / scale).round().clamp(0, top) * scale + low) @ basis.T


def reference(name: str, tokens: Tensor) -> Tensor:
    """The family's own attention on keys and values rounded behind projection and rotary embedding."""
    model = make(name).double()
    for layer in model.transformer.h:
        if name == "GPTJ":
            plain = layer.attn._attn
            layer.attn._attn = lambda q, k, v, *more, plain=plain: plain(q, rounded(k), rounded(v), *more)
        else:

            def change(module: Any, args: Any, output: Tensor) -> Tensor:
                query, key, value = output.unflatten(-1, (4, 3, -1)).unbind(-2)  # (B, S, heads, d) each
                return torch.stack([query, rounded(key), rounded(value)], dim=-2).flatten(-3)

            layer.self_attention.query_key_value.register_forward_hook(change)
    return model(tokens).logits


@pytest.mark.parametrize("name", ["Bloom", "GPTJ"])
def test_logits_are_those_of_a_reference(name: str) -> None:
    exact, expected = make(name).double()(ids()).logits, reference(name, ids())
    model = quantized(make(name).double())
    for made in (model(ids(), use_cache=False).logits, model(ids()).logits):
        torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    assert (exact - expected).abs().max() > 1e-2


@pytest.mark.parametrize("name", ONES)
def test_every_cache_gives_the_same(name: str) -> None:
    # In float64, because keys of one text in other pieces differ by rounding, which may tip a code to its neighbour.
    model = quantized(make(name).double())
    expected = model(ids(), use_cache=False).logits
    for chunks in CHUNKS:
        packed = SinkCache(model)
        for cache in (DynamicCache(config=model.config), packed):
            torch.testing.assert_close(logits(model, ids(), cache, chunks), expected, atol=1e-5, rtol=1e-5)
        assert all(isinstance(layer, SinkLayer) and layer.seen == 20 for layer in packed.layers)
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 2, "eos_token_id": None, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(ids())
    made = [model.generate(ids(), past_key_values=one, **options) for one in (None, SinkCache(model))]
    made.append(model.generate(ids(), use_cache=False, **options))
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


@pytest.mark.parametrize("name", ONES)
def test_sixteen_bits_change_nothing(name: str) -> None:
    model = quantized(make(name), KVScheme(16))
    assert not any(hasattr(module, STAGE) or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(ids()).logits, make(name)(ids()).logits)


def test_a_checkpoint_rounds_as_the_model_does(tmp_path: Path, text_file: Path) -> None:
    sizes = {"vocab_size": 259, "n_positions": 128, "max_position_embeddings": 128}
    make("GPTJ", **sizes).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    common = {"calibration": str(text_file), "overrides": ["calibration.length=64", "export.dtype=float32"]}
    sinkquant.quantize(tmp_path / "model", recipe="kv4", output=tmp_path / "out", **common)
    expected = quantized(make("GPTJ", **sizes))(ids()).logits
    loaded = sinkquant.load(tmp_path / "out")
    assert torch.equal(loaded(ids()).logits, expected)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "again")(ids()).logits, expected)
    stored = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert stored["attentions"] == []
    assert [(one["argument"], list(one["targets"].values())) for one in stored["cached"]] == [("layer_past", [0, 1, 2])]
    common["overrides"].append("kv_cache.bits=16")
    sinkquant.quantize(tmp_path / "model", recipe="w8a8-static", output=tmp_path / "plain", **common)
    stored = json.loads((tmp_path / "plain" / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert "cached" not in stored


def test_an_attention_that_leaves_its_cache_alone_is_an_error() -> None:
    model = quantized(make("Bloom"))
    attention = model.transformer.h[1].self_attention
    plain = attention.forward
    attention.forward = lambda x, residual, layer_past=None, **more: plain(x, residual, **more)
    with pytest.raises(SinkquantError, match=r"BloomAttention computed its attention without its cache"):
        model(ids())
    attention.forward = lambda hidden_states, **more: plain(hidden_states, **more)
    with pytest.raises(SinkquantError, match=r"takes no 'layer_past'"):
        install_cached(attention, SCHEME, getattr(attention, STAGE).cached, model.config)


def test_what_keeps_no_keys_and_values_says_so() -> None:
    mamba = make("Mamba", num_hidden_layers=2)
    assert find_cached(mamba, record(mamba, token_probe(mamba), own=False)) == ((), NONE_KEPT)


def test_keys_that_are_read_elsewhere_are_not_rounded() -> None:
    """An attention that takes no notice of what the cache returns, or changes with a cache, is none of these."""
    model = make("Bloom")
    for layer in model.transformer.h:
        plain = layer.self_attention.forward

        def deaf(hidden_states: Tensor, *args: Any, plain: Any = plain, layer_past: Any = None, **more: Any) -> Any:
            if layer_past is not None:
                layer_past.update(torch.ones(1, 4, 7, 12), torch.ones(1, 4, 7, 12), 0)
            return plain(hidden_states, *args, **more)

        layer.self_attention.forward = deaf
    found = find_cached(model, record(model, token_probe(model), own=False))
    assert found == ((), UNUSED)


def test_encoder_decoders_keep_their_keys() -> None:
    torch.manual_seed(0)
    sizes = dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 16)
    config = BartConfig(vocab_size=97, encoder_layers=1, decoder_layers=1, max_position_embeddings=32, **sizes)
    model = BartForConditionalGeneration(config).eval()
    assert find_cached(model, record(model, token_probe(model), own=False))[0] == ()
