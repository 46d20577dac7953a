"""What is measured at a site is about the divergence of the whole model's predictions; the model stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from sinkquant.flow.plan import make_plan, weight_shapes
from sinkquant.flow.transform import transform
from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Site
from sinkquant.models.trace import trace_roles
from sinkquant.quantization.weights import round_to_nearest
from sinkquant.recipes import load_recipe
from sinkquant.sensitivity.measure import measure, rounded
from tests.sessions import text_session
from tests.tiny import BOS, byte_tokenizer


def predictions(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return log_softmax(model(input_ids=ids, use_cache=False).logits.double(), -1)


def divergence(model: nn.Module, ids: Tensor, before: Tensor) -> float:
    return float(kl_div(predictions(model, ids), before, log_target=True, reduction="sum")) / ids.numel()


@pytest.mark.parametrize(("recipe", "prefix"), [("w4a16", ()), ("w4a8kv4", (BOS,))])
def test_it_is_about_what_the_whole_model_says(
    model_folder: Path, text_file: Path, recipe: str, prefix: tuple[int, ...]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval().requires_grad_(False)
    ids = torch.tensor(byte_tokenizer()(text_file.read_text()[:512]).input_ids).reshape(8, 64)
    roles = trace_roles(model)
    overrides = ["activations.center=false", "weights.group_size=null"]
    made = make_plan(load_recipe(recipe, overrides), prefix, roles, weight_shapes(model, roles), None)
    transform(text_session(model, ids, roles), made)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = predictions(model, ids)
    seen: list[tuple[int, int]] = []
    losses = measure(
        model,
        roles,
        Batch({"input_ids": ids}),
        made.linears,
        search=True,
        threshold=64.0,
        progress=lambda d, t: seen.append((d, t)),
    )
    assert losses is not None
    assert seen == [(i + 1, len(roles.blocks)) for i in range(len(roles.blocks))]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    sites = [site for block in roles.blocks for site in block.sites]
    assert list(losses) == [site.linears[0] for site in sites]
    true = []
    for site in sites:
        for name in site.linears:
            scheme, linear = made.linears[name].weight, model.get_submodule(name)
            assert scheme is not None
            linear.weight.copy_(round_to_nearest(linear.weight, scheme, search=True).dequantized())
        true.append(divergence(model, ids, before))
        model.load_state_dict(state)
    ratios = torch.tensor(list(losses.values())) / torch.tensor(true)
    assert 0.6 < ratios.median() < 1.6
    assert ratios.min() > 0.2 and ratios.max() < 5
    ranks = torch.stack([torch.tensor(x).argsort().argsort().double() for x in (list(losses.values()), true)])
    assert torch.corrcoef(ranks)[0, 1] > 0.9


def test_a_mean_that_is_taken_out_is_not_rounded(tiny_llama: LlamaForCausalLM) -> None:
    roles = trace_roles(tiny_llama)
    made = make_plan(load_recipe("w4a8kv4"), (), roles, weight_shapes(tiny_llama, roles), None)
    site: Site = roles.blocks[0].sites[0]
    linear = tiny_llama.get_submodule(site.linears[0])
    mean, rest = torch.randn(2, linear.in_features)
    with rounded(tiny_llama, site, made.linears, mean, search=True):
        at_mean, beside = linear(mean), linear(mean + rest)
        changed = linear.weight.clone()
    assert torch.allclose(at_mean, linear(mean), atol=1e-5)
    assert torch.allclose(beside, linear(mean) + rest @ changed.T, atol=1e-5)
    assert not torch.equal(changed, linear.weight)
    assert linear.bias is None


def test_logits_that_are_changed_behind_the_head_cannot_be_compared(tiny_llama: LlamaForCausalLM) -> None:
    roles = trace_roles(tiny_llama)
    made = make_plan(load_recipe("w4a16"), (), roles, weight_shapes(tiny_llama, roles), None)

    def halve(_module: nn.Module, _arguments: object, output: object) -> None:
        output.logits = output.logits / 2  # type: ignore[attr-defined]

    with tiny_llama.register_forward_hook(halve):  # type: ignore[attr-defined]
        found = measure(
            tiny_llama, roles, Batch({"input_ids": torch.arange(8)[None]}), made.linears, search=True, threshold=64.0,
            progress=lambda *_: None,
        )  # fmt: skip
    assert found is None
