"""A model whose prefix and cache scheme live in our attention function fails where something else computes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sinkquant
from sinkquant.errors import SinkquantError
from sinkquant.models.attention import NAME, attention_forward

IDS = torch.tensor([[5, 17, 100, 23, 42, 7]])
COMMON = ["calibration.length=64", "calibration.sequences=2", "weights.method=rtn", "sinks.prefix=[1]"]


@pytest.fixture(scope="module")
def checkpoint(model_folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("insist") / "out"
    sinkquant.quantize(model_folder, recipe="w8a8-static", output=out, overrides=COMMON, calibration=str(text_file))
    return out


@pytest.mark.parametrize("ran_before", [False, True])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_another_implementation_fails_at_the_first_forward(
    checkpoint: Path, implementation: str, ran_before: bool
) -> None:
    model = sinkquant.load(checkpoint)
    expected = model(IDS).logits if ran_before else None
    model.set_attn_implementation(implementation)
    with pytest.raises(SinkquantError, match=f"'{implementation}'.*set_attn_implementation"):
        model(IDS)
    model.set_attn_implementation(NAME)
    assert expected is None or torch.equal(model(IDS).logits, expected)


def test_a_model_class_that_does_not_ask_fails(checkpoint: Path) -> None:
    model = sinkquant.load(checkpoint)
    attention = model.model.layers[0].self_attn
    attention.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(SinkquantError, match="LlamaAttention"):
        model(IDS)


def test_ways_to_run_a_model_that_are_no_alarm(checkpoint: Path) -> None:
    model = sinkquant.load(checkpoint)
    expected = model(IDS).logits
    model.generate(IDS, max_new_tokens=3, do_sample=False)
    with ThreadPoolExecutor(4) as threads:
        assert all(torch.equal(x, expected) for x in threads.map(lambda _: model(IDS).logits.detach(), range(8)))
    model.train()
    model.activation_checkpointing_enable()
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: output.detach().requires_grad_())
    model(IDS, use_cache=False).logits.sum().backward()
    del model.model.layers[1]  # a model of which only a part runs
    model.eval()(IDS, use_cache=False)


def test_compiled_without_a_break(checkpoint: Path) -> None:
    model = sinkquant.load(checkpoint)
    attention = model.model.layers[0].self_attn
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    states = torch.randn(1, 6, model.config.hidden_size)
    places = model.model.rotary_emb(states, torch.arange(6)[None])
    given: dict[str, Any] = {"position_embeddings": places, "attention_mask": None}
    with torch.no_grad():
        for _ in range(2):
            assert torch.allclose(compiled(states, **given)[0], attention(states, **given)[0], atol=1e-5)


KNOWN = ["softcap", "s_aux", "sliding_window", "position_ids", "output_attentions", "is_causal"]
UNKNOWN = ["indices", "sinks", "block_indices", "cache", "cu_seq_lens_q", "of_tomorrow"]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_argument_that_is_not_known_is_an_error(name: str) -> None:
    x = torch.randn(1, 2, 3, 8)
    with pytest.raises(SinkquantError, match=f"'{name}'"):
        attention_forward(nn.Module(), x, x, x, None, **{name: torch.zeros(1)})
    attention_forward(nn.Module(), x, x, x, None, **{name: None})


@pytest.mark.parametrize("name", KNOWN)
def test_arguments_that_say_nothing_are_no_error(name: str) -> None:
    x = torch.randn(1, 2, 3, 8)
    attention_forward(nn.Module(), x, x, x, None, **{name: None})
