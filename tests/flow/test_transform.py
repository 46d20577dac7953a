"""Each transformation alone and all together: logits before = logits after, in float32, with padding."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    StaticCache,
)

from sinkquant.flow.plan import make_plan, weight_shapes
from sinkquant.flow.transform import transform
from sinkquant.inputs.batches import Batch
from sinkquant.models.trace import trace_roles
from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import round_to_nearest
from sinkquant.recipes import Recipe, load_recipe
from sinkquant.tasks.causal_lm import CAUSAL_LM
from sinkquant.transforms.prefix import refuse_prefix
from tests.sessions import text_session
from tests.tiny import BOS

PARTS = ("fold_norms", "r1", "r2", "r3", "r4")
SMOOTH = ("fold_norms", "r4", "smooth", "inputs", "balance")
ALL = (*PARTS, "smooth", "inputs")


def recipe(*parts: str, seed: int = 0) -> Recipe:
    overrides = [f"transforms.{part}={str(part in parts).lower()}" for part in ALL]
    overrides += [f"kv_cache.balance={str('balance' in parts).lower()}", f"transforms.seed={seed}"]
    return load_recipe("w8a8-static", overrides)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Random norms and biases, so that forgetting one shows."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        assert name
    return model.eval().requires_grad_(False)


def run(model: torch.nn.Module, chosen: Recipe, prefix: tuple[int, ...]) -> float:
    roles = trace_roles(model)
    ids = torch.randint(3, 190, (1, 96), generator=torch.Generator().manual_seed(0))
    plan = make_plan(chosen, prefix, roles, weight_shapes(model, roles), refuse_prefix(roles))
    return transform(text_session(model, ids, roles), plan)


@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("fold_norms",),
        ("fold_norms", "r1"),
        ("r2",),
        ("r3",),
        ("r4",),
        ("fold_norms", "smooth"),
        ("inputs",),
        ("balance",),
        PARTS,
        SMOOTH,
        ALL,
    ],
    ids="+".join,
)
@pytest.mark.parametrize("prefix", [(), (1,), (1, 5, 7)], ids=len)
def test_llama(tiny_llama: LlamaForCausalLM, parts: tuple[str, ...], prefix: tuple[int, ...]) -> None:
    assert run(shaken(tiny_llama), recipe(*parts), prefix) < 1e-5


@pytest.mark.parametrize("parts", [PARTS, SMOOTH], ids=["rotated", "smoothed"])
@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_other_families(family: str, parts: tuple[str, ...]) -> None:
    sizes = dict(vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=6, num_attention_heads=4,
                 head_dim=16, num_key_value_heads=2, max_position_embeddings=128)  # fmt: skip
    torch.manual_seed(0)
    model = (
        Qwen2ForCausalLM(Qwen2Config(**sizes)) if family == "qwen2"
        else Gemma3ForCausalLM(Gemma3TextConfig(**sizes, sliding_window=256))
    )  # fmt: skip
    assert run(shaken(model), recipe(*parts), (1, 4)) < 1e-5


def test_the_seed_turns_signs_of_smoothed_channels(tiny_llama: LlamaForCausalLM) -> None:
    """A Hadamard transform behind them is then a random one."""
    first, second = shaken(tiny_llama), copy.deepcopy(tiny_llama)
    for model, seed in ((first, 0), (second, 1)):
        assert run(model, recipe("fold_norms", "smooth", seed=seed), ()) < 1e-5
    for name in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
        one, other = (m.get_submodule(f"model.layers.0.{name}").weight for m in (first, second))
        assert not torch.allclose(one, other)
        if name.endswith(("q_proj", "gate_proj", "down_proj")):
            torch.testing.assert_close(one.abs(), other.abs())


def prepared(model: torch.nn.Module, prefix: tuple[int, ...]) -> torch.nn.Module:
    run(model, recipe(*PARTS), prefix)
    return model


def test_generation_equals_the_prefix_in_context(tiny_llama: LlamaForCausalLM) -> None:
    prefix, ids = (1, 9), torch.tensor([[5, 17, 100, 23], [8, 44, 3, 60]])
    config = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    context = torch.cat([torch.tensor([prefix, prefix]), ids], dim=1)
    expected = tiny_llama.generate(context, **config)[:, len(prefix) :]
    beams = tiny_llama.generate(context, num_beams=3, **config)[:, len(prefix) :]
    torch.manual_seed(3)
    sampled = tiny_llama.generate(context, **{**config, "do_sample": True})[:, len(prefix) :]
    model = prepared(tiny_llama, prefix)
    assert torch.equal(model.generate(ids, **config), expected)
    assert torch.equal(model.generate(ids, cache_implementation="static", disable_compile=True, **config), expected)
    assert torch.equal(model.generate(ids, num_beams=3, **config), beams)
    torch.manual_seed(3)
    assert torch.equal(model.generate(ids, **{**config, "do_sample": True}), sampled)
    padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), ids[:1]], dim=1)
    mask = (padded != 0).long()
    assert torch.equal(model.generate(padded, attention_mask=mask, **config)[:, 2:], expected[:1])


def test_forward_with_masks_positions_and_caches(tiny_llama: LlamaForCausalLM) -> None:
    prefix, ids = (1, 9), torch.tensor([[5, 17, 100, 23, 42]])
    expected = CAUSAL_LM.alone(tiny_llama, Batch({"input_ids": ids}), prefix)
    model = prepared(tiny_llama, prefix)

    def near(logits: torch.Tensor) -> None:
        torch.testing.assert_close(logits, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)

    near(model(ids).logits[0])
    near(model(ids, attention_mask=torch.ones_like(ids)).logits[0])
    near(model(ids, position_ids=torch.arange(5)[None]).logits[0])
    right = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], dim=1)
    near(model(right, attention_mask=(right != 0).long()).logits[0, :5])
    left = right.roll(3, dims=1)
    near(model(left, attention_mask=(left != 0).long()).logits[0, 3:])
    cache = StaticCache(config=model.config, max_cache_len=16)
    first = model(ids[:, :3], past_key_values=cache).logits[0]
    second = model(ids[:, 3:], past_key_values=cache, position_ids=torch.tensor([[3, 4]])).logits[0]
    near(torch.cat([first, second]))


@pytest.mark.parametrize("parts", [PARTS, SMOOTH], ids=["rotated", "smoothed"])
def test_a_trained_model(model_folder: Path, parts: tuple[str, ...]) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval().requires_grad_(False)
    assert run(model, recipe(*parts), (BOS,)) < 1e-4


def test_values_that_attention_averages_keep_their_noise_small() -> None:
    """Where no query tells keys apart, outputs hardly vary; values that do meet the rounding of their projection."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                 head_dim=12, num_key_value_heads=2)  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.0 if "q_proj" in name else parameter.shape[-1] ** -0.5)
    model.model.embed_tokens.weight.mul_(0.3).add_(torch.randn(48))
    ids = torch.randint(3, 190, (1, 96), generator=torch.Generator().manual_seed(0))

    def noise() -> float:
        rounded, logits = copy.deepcopy(model), model(ids).logits
        for layer in rounded.model.layers:
            weight = layer.self_attn.v_proj.weight
            weight.copy_(round_to_nearest(weight, WeightScheme(8), search=False).dequantized())
        return float((rounded(ids).logits - logits).norm() / (logits - logits.mean(1, keepdim=True)).norm())

    plain = noise()
    assert run(model, recipe("fold_norms", "smooth"), ()) < 1e-5
    assert noise() < 2 * plain


def test_values_of_any_size_can_be_smoothed() -> None:
    """The determinant of a large head's transform leaves the range of floats long before its entries do."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=199, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=128,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        layer.self_attn.v_proj.weight.data *= 1e-5
        layer.self_attn.o_proj.weight.data *= 1e5
    assert run(shaken(model), recipe("fold_norms", "smooth"), ()) < 1e-5
