"""GPT-2's Conv1D: the same function as a linear, stored as before, quantized where our loader puts it back."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sinkquant.models.trace import trace_roles
from sinkquant.models.transposed import with_linears


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=97, n_embd=48, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for tensor in model.parameters():
        tensor.copy_(tensor + 0.1 * torch.randn_like(tensor))
    return model


def test_function_and_state_stay() -> None:
    model, ids = gpt2(), torch.arange(3, 20)[None]
    expected, state = model(ids).logits, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with_linears(model)
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert len(trace_roles(model).blocks[0].linears) == 4
    kept = model.state_dict()
    assert kept.keys() == state.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.items())
    model.load_state_dict({name: 2 * tensor for name, tensor in kept.items()})
    assert all(torch.equal(tensor, 2 * state[name]) for name, tensor in model.state_dict().items())
