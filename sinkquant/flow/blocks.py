"""Quantize all blocks of a model, one after the other, and survive an interruption."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.flow.block import install_kv, quantize_block
from sinkquant.flow.coverage import coverage, coverage_note
from sinkquant.flow.modality import figures_of, tells_apart
from sinkquant.flow.plan import Plan
from sinkquant.flow.session import Session
from sinkquant.flow.site import quantize_sites
from sinkquant.formats.facts import Experts
from sinkquant.formats.finished import ResumeStore
from sinkquant.models.media import watch_media
from sinkquant.models.roles import Block
from sinkquant.progress import Progress
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.walk.walk import BlockRun, BridgeRun, Walk


def quantize_blocks(
    session: Session, plan: Plan, store: ResumeStore, tell: Progress
) -> tuple[Plan, tuple[Experts, ...], dict[str, Any]]:
    """Quantize on the calibration data; blocks that `store` holds are taken from it.

    Returns the plan, with what is to be said of it now, how many tokens chose each expert, as far as it was asked for,
    and figures.
    """
    learnt = _quantize(session, plan, store, tell)
    experts = coverage(learnt.tokens, plan.shapes)
    few = coverage_note(experts, plan.recipe.calibration)
    plan = plan if few is None else replace(plan, notes=(*plan.notes, few))
    gains, schemes = learnt.gains, learnt.schemes
    return plan, experts, {"ranges_by_modality": figures_of(gains, schemes)} if gains else {}


@dataclass(frozen=True)
class _Learnt:
    """What is told of the blocks of a run: their linears' `schemes`, how many `tokens` chose each expert, by the module
    of experts, as far as it was asked for, and the `gains` of two static ranges over one, by the first linear of every
    site where they were tried."""

    schemes: dict[str, LinearScheme] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)


def _quantize(session: Session, plan: Plan, store: ResumeStore, tell: Progress) -> _Learnt:
    model, roles = session.model, session.roles
    if all(scheme.weight is None and scheme.activation is None for scheme in plan.linears.values()):
        for block in roles.blocks:  # only the cache changes: nothing needs calibration
            install_kv(model, block, plan)
        return _Learnt()
    if roles.media is not None and tells_apart(plan.linears):
        watch_media(model, roles.media)
    start, learnt = store.finished(), _Learnt()
    for index in range(start):
        tensors, facts = store.block(index)
        schemes = {name: LinearScheme.from_dict(fields) for name, fields in facts["linears"].items()}
        restore_block(model, roles.blocks[index], plan, tensors, schemes)
        learnt.schemes.update(schemes)
        learnt.tokens.update(facts["tokens"])
        learnt.gains.update(facts["gains"])
    if start:
        tell(start, len(roles.blocks))
    walk = Walk(model, roles, session.calibration)

    def visit(run: BlockRun) -> list[Tensor]:
        outputs = quantize_block(model, run, plan, session.threshold)
        tokens = {module: counts.tolist() for module, counts in run.routed.items()}
        learnt.tokens.update(tokens)
        learnt.gains.update(run.gains)
        schemes = {n: m.scheme for n in run.roles.linears if isinstance(m := _at(model, n), QuantizedLinear)}
        learnt.schemes.update(schemes)
        if not walk.shares:  # what finished blocks would hand on beside the stream is not stored
            linears = {name: scheme.to_dict() for name, scheme in schemes.items()}
            facts = {"linears": linears, "tokens": tokens, "gains": run.gains}
            store.save(run.index, dict(run.module.state_dict()), facts, outputs)
        return outputs

    def cross(run: BridgeRun) -> None:
        for site in run.roles.sites:
            quantize_sites(model, run, (site,), plan, session.threshold)

    walk.run(visit, tell, start=start, inputs=store.outputs() if start else None, cross=cross)
    return learnt


def _at(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name)


def restore_block(
    model: nn.Module, block: Block, plan: Plan, tensors: dict[str, Tensor], schemes: dict[str, LinearScheme]
) -> None:
    """Put a finished block's modules and tensors in place."""
    install_kv(model, block, plan)
    for name, scheme in schemes.items():
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear | QuantizedLinear)
        with torch.device("meta"):
            made = QuantizedLinear(linear.in_features, linear.out_features, scheme, bias=linear.bias is not None)
        replace_module(model, name, made.requires_grad_(False))
    model.get_submodule(block.name).load_state_dict(tensors, assign=True)
