"""The walk over several stacks: what a plain one gives, what later stacks get, which rows are real, how it goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Roles
from sinkquant.models.stubs import call_model
from sinkquant.models.trace import trace_roles
from sinkquant.walk.walk import BlockRun, Walk, capture_inputs, run_and_show, run_block
from tests.stacks import IDS, KINDS, make

PAIRS = [kind for kind in KINDS if len(KINDS[kind].towers) > 1]


@pytest.fixture(scope="module")
def traced() -> dict[str, tuple[Any, Roles]]:
    return {}


def roles_of(traced: dict[str, tuple[Any, Roles]], kind: str) -> tuple[Any, Roles]:
    if kind not in traced:
        model = make(kind)
        traced[kind] = model, trace_roles(model, KINDS[kind].batch(1))
    return traced[kind]


def outputs(model: Any, roles: Roles, batch: Batch) -> dict[str, Tensor]:
    """What every block gives where the model runs as it is."""
    found: dict[str, Tensor] = {}
    hooks = []
    for block in roles.blocks:

        def keep(_: Any, args: Any, output: Any, block: Any = block) -> None:
            found[block.name] = block.stream.given(output)

        hooks.append(model.get_submodule(block.name).register_forward_hook(keep))
    with torch.no_grad():
        call_model(model, batch)
    for hook in hooks:
        hook.remove()
    return found


def walked(walk: Walk, **how: Any) -> dict[str, Tensor]:
    """What every block gives on the walk, all batches together."""
    found: dict[str, Tensor] = {}

    def visit(run: BlockRun) -> list[Tensor]:
        made = run_block(run)
        found[run.roles.name] = torch.cat(made)
        return made

    walk.run(visit, **how)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_walk_gives_what_the_model_gives(kind: str, traced: dict[str, tuple[Any, Roles]]) -> None:
    model, roles = roles_of(traced, kind)
    batch = KINDS[kind].batch(3)
    expected, made = outputs(model, roles, batch), walked(Walk(model, roles, [batch], tokens=46))
    assert list(made) == [block.name for block in roles.blocks]
    for name, output in made.items():
        torch.testing.assert_close(output, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", PAIRS)
def test_later_stacks_get_what_finished_ones_give_by_then(kind: str, traced: dict[str, tuple[Any, Roles]]) -> None:
    model, roles = make(kind), roles_of(traced, kind)[1]
    batch, calls = KINDS[kind].batch(2), list[str]()
    for block in roles.blocks:
        linear = model.get_submodule(block.linears[-1])
        linear.register_forward_pre_hook(lambda *_, name=block.name: calls.append(name))
    walk = Walk(model, roles, [batch])
    for stack in roles.stacks[:-1]:
        for block in stack.blocks:
            weight = model.get_submodule(block.linears[-1]).weight
            weight.data.mul_(0.5)  # as if it were quantized in the meantime
    calls.clear()
    made = walked(walk)
    later = [block.name for stack in roles.stacks for block in stack.blocks[1:]]  # the first may have to make a bias
    assert [name for name in calls if name in later] == later  # nothing is computed twice
    expected = outputs(model, roles, batch)
    for name, output in made.items():
        torch.testing.assert_close(output, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["BERT", "T5", "Whisper", "LLaVA"])
def test_rows_are_real_where_their_own_stack_says_so(kind: str, traced: dict[str, tuple[Any, Roles]]) -> None:
    model, roles = roles_of(traced, kind)
    batch = KINDS[kind].batch(3)
    seen, captured = dict[str, list[Tensor]](), dict[str, list[Tensor]]()

    def visit(run: BlockRun) -> list[Tensor]:
        for site in run.roles.sites:
            name = site.linears[0]
            capture_inputs(run, {name: lambda rows, real, _, name=name: captured.setdefault(name, []).append(real)})
        return run_and_show(run, lambda name, rows, real: seen.setdefault(name, []).append(real))

    Walk(model, roles, [batch], tokens=46).run(visit)
    by_stack = {stack.name: stack for stack in roles.stacks}
    for stack in roles.stacks:
        for block in stack.blocks:
            for site in block.sites:
                argument = by_stack[site.stack or stack.name].rows
                real, also = (torch.cat(masks[site.linears[0]]) for masks in (seen, captured))
                assert torch.equal(real, also)
                if argument in batch.real:
                    assert torch.equal(real, batch.real[argument].flatten())
                    assert not real.all()
                else:
                    assert real.all()


@pytest.mark.parametrize("kind", ["BART", "LLaVA", "T5"])
def test_a_walk_goes_on_at_any_block(kind: str, traced: dict[str, tuple[Any, Roles]]) -> None:
    model, roles = roles_of(traced, kind)
    batch = KINDS[kind].batch(2)
    whole = walked(Walk(model, roles, [batch]))
    names = [block.name for block in roles.blocks]
    for start in range(1, len(names)):
        told: list[int] = []
        rest = walked(
            Walk(model, roles, [batch]),
            start=start,
            inputs=list(whole[names[start - 1]].split(2)),
            progress=lambda done, _, told=told: told.append(done),
        )
        assert list(rest) == names[start:]
        assert told == list(range(start + 1, len(names) + 1))
        for name, output in rest.items():
            torch.testing.assert_close(output, whole[name], rtol=1e-5, atol=1e-5)


def test_token_ids_are_a_batch(traced: dict[str, tuple[Any, Roles]]) -> None:
    model, roles = roles_of(traced, "BERT")
    batch = KINDS["BERT"].batch(3)
    expected = Walk(model, roles, [batch]).run(run_block)
    made = Walk(model, roles, batch.tensors[IDS], batch.real[IDS]).run(run_block)
    torch.testing.assert_close(made, expected)
