"""Experts that write the spikes keep more bits than others, where the recipe says so."""

from __future__ import annotations

from collections.abc import Sequence

from sinkquant.flow.plan import Plan, Shapes, count, raised
from sinkquant.sinks.report import SuperExpert


def keep_super_experts(plan: Plan, found: Sequence[SuperExpert], shapes: Shapes) -> Plan:
    """The plan with the bits of `weights.super_experts` for all linears of those that detection `found`."""
    bits = plan.recipe.weights.super_experts
    if bits is None:
        return plan
    inside = tuple(f"{one.module}.{one.expert}." for one in found)
    names = [name for name in plan.linears if name.startswith(inside)] if inside else []
    if not names:
        why = "those that were found stay in full precision" if found else "detection found none"
        return raised(plan, (), shapes, f"weights.super_experts={bits} changes nothing: {why}")
    blocks: dict[int, list[int]] = {}
    for one in found:
        blocks.setdefault(one.layer, []).append(one.expert)
    told = "; ".join(f"block {block}: {', '.join(map(str, sorted(each)))}" for block, each in sorted(blocks.items()))
    share = count(names, shapes) / count(plan.linears, shapes)
    kept = f"super experts ({told}) have {bits} bits a weight, {share:.1%} of the blocks' weights"
    return raised(plan, names, shapes, kept, bits)
