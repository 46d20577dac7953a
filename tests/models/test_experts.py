"""Experts taken apart: the same function in every layout, roles for every linear, tokens for every expert."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sinkquant.models.experts import everyone, fused_experts, part_experts, parted, parted_experts
from sinkquant.models.roles import SiteKind
from sinkquant.models.trace import trace_roles
from sinkquant.quantization.scheme import Transforms
from sinkquant.transforms.apply import fused_steps
from sinkquant.walk.experts import seen_by_enough, tokens_of
from sinkquant.walk.walk import BlockRun, Walk, capture_inputs, run_block
from tests.families import EXPERTS, make

GROUPS = dict(n_routed_experts=4, n_shared_experts=1, n_group=2, topk_group=1, first_k_dense_replace=1)
LATENT = dict(
    q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=12, head_dim=8,
    num_key_value_heads=4,
)  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4},
    "Qwen2Moe": EXPERTS,  # with a shared expert behind a gate
    "Qwen3Moe": EXPERTS,
    "GptOss": {"num_local_experts": 4},  # transposed, gate and up take turns, biases
    "DeepseekV3": EXPERTS | GROUPS | LATENT,  # chosen by group, a bias on the choice, a shared expert
    "Olmoe": EXPERTS,
}
IDS = torch.arange(2, 42).reshape(2, 20)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return make(request.param, **FAMILIES[request.param])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(IDS, use_cache=False).logits  # type: ignore[no-any-return]


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def test_experts_as_linears_compute_the_same(model: Any) -> None:
    before = logits(model)
    size = sum(parameter.numel() for parameter in model.parameters())
    names = part_experts(model)
    assert names
    assert parted_experts(model) == tuple(names)
    assert not fused_experts(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == size
    assert difference(logits(model), before) < 1e-5
    with everyone(model):
        assert difference(logits(model), before) < 1e-5
    first = parted(model.get_submodule(names[0]))[0]
    first.get_submodule("down_proj").weight.zero_()  # type: ignore[union-attr, operator]
    assert difference(logits(model), before) > 1e-4


def test_every_expert_has_its_role_and_the_stream_can_be_rotated(model: Any) -> None:
    part_experts(model)
    before, roles = logits(model), trace_roles(model)
    linears = {name for block in roles.blocks for name in block.linears}
    inside = {f"{name}.{part}" for name in parted_experts(model) for part, m in _linears(model.get_submodule(name))}
    assert inside <= linears
    (block,) = [block for block in roles.blocks if block.name == roles.blocks[-1].name]
    entry = next(site for site in block.sites if site.experts)
    assert entry.kind is SiteKind.MLP_INPUT
    assert len(entry.groups) == 4 + any("shared" in name for name in entry.linears)
    downs = [site for site in block.sites if site.kind is SiteKind.DOWN_INPUT]
    assert {site.linears for site in downs} >= {(f"{entry.experts}.{n}.down_proj",) for n in range(4)}
    assert roles.stacks[0].rotates
    every = tuple(stack.name for stack in roles.stacks)
    for _, step in fused_steps(model, roles, Transforms(every, every, (), keys=False, down=False, seed=0)):
        step()
    assert difference(logits(model), before) < 1e-4


def _linears(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, one) for name, one in module.named_modules() if isinstance(one, nn.Linear)]


def test_a_cold_expert_sees_every_token_and_a_warm_one_its_own() -> None:
    model = make("Mixtral", num_local_experts=4)
    part_experts(model)
    roles = trace_roles(model)
    seen = Counter[str]()
    found: list[list[int]] = []

    def visit(run: BlockRun) -> list[Tensor]:
        if run.index == 0:
            experts = next(site.experts for site in run.roles.sites if site.experts)
            found.append(tokens_of(run, experts).tolist())
            names = [f"{experts}.{number}.up_proj" for number in range(4)]
            with seen_by_enough(run, names):
                capture_inputs(
                    run, {name: lambda rows, *_, name=name: seen.update({name: len(rows)}) for name in names}
                )
        return run_block(run)

    ids = torch.arange(2, 42).repeat(2, 1)
    Walk(model, roles, ids).run(visit)
    counts, width = found[0], 48
    assert sum(counts) == 2 * ids.numel()
    assert min(counts) < width < max(counts), counts  # both kinds occur
    assert list(seen.values()) == [ids.numel() if count < width else count for count in counts]
