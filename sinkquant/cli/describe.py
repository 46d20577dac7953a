"""Plan and result of `quantize` as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from sinkquant.formats import names
from sinkquant.report.table import Sheet, key_values, rows

if TYPE_CHECKING:  # these import torch
    from sinkquant.flow.estimate import Estimate
    from sinkquant.flow.plan import Plan
    from sinkquant.flow.result import Result
    from sinkquant.formats.facts import Experts
    from sinkquant.quantization.scheme import LinearScheme

TOKENS = "Tokens that chose each expert (wanted: input channels; a linear that fewer chose was shown all of the layer)"


def plan_sheet(plan: Plan, cost: Estimate) -> Sheet:
    """What will be done: bits by kind of module, prefix, rotations, size, what is left out; and what it will cost."""
    return rows("Plan", ("", ""), [*_plan_rows(plan), ("estimate", _cost(cost))])


def _cost(cost: Estimate) -> str:
    minutes = cost.seconds / 60
    time = f"{minutes:.0f} min" if minutes >= 2 else f"{cost.seconds:.0f} s"
    return f"about {time} and {size(int(cost.memory))} of memory"


def _plan_rows(plan: Plan) -> Iterator[tuple[str, Any]]:
    yield "recipe", f"{plan.recipe.name} ({plan.recipe.target})"
    for what, kinds in _linears_by_treatment(plan).items():
        yield ", ".join(kinds), what
    if plan.recipe.weights.budget is not None:
        yield "budget", f"{plan.recipe.weights.budget:g} bits a weight; what is raised to 8 bits is measured first"
    for name, bits in plan.bits.items():
        if name not in plan.linears:  # the embedding and the head
            yield _kind(name), f"weights {_bits(bits)}"
    recent = f", the latest {plan.kv.recent} tokens in full precision" if plan.kv.recent else ""
    yield "KV cache", _bits(plan.kv.bits) + recent
    yield "prefix", f"tokens {', '.join(map(str, plan.prefix))}" if plan.prefix else "none"
    yield "transformations", ", ".join(_transformations(plan)) or "none"
    yield "checkpoint", size(plan.bytes)
    for note in plan.notes:
        yield "note", note


def _linears_by_treatment(plan: Plan) -> dict[str, list[str]]:
    """What is done to linears, with the kinds of linears that it is done to, in the order of the model."""
    kinds: dict[str, list[str]] = {}
    for name, scheme in plan.linears.items():
        listed = kinds.setdefault(_treatment(scheme), [])
        if _kind(name) not in listed:
            listed.append(_kind(name))
    return kinds


def _treatment(scheme: LinearScheme) -> str:
    weight, inputs = scheme.weight, scheme.activation
    text = f"weights {_bits(weight.bits if weight else 16)}"
    if weight and weight.group_size:
        text += f" in groups of {weight.group_size}"
    if inputs:
        text += f", inputs {_bits(inputs.bits)} {inputs.mode}"
    return text + (", inputs rotated" if scheme.rotate else "")


def _transformations(plan: Plan) -> Iterator[str]:
    yield from names.fused(vars(plan.rotations))
    rotated = sum(scheme.rotate for scheme in plan.linears.values())
    yield from names.online(rotate=plan.kv.rotate, balance=plan.kv.balance, linears=rotated)


def _kind(name: str) -> str:
    """`model.layers.3.self_attn.q_proj` → `q_proj`."""
    return name.rpartition(".")[2]


def _bits(bits: int) -> str:
    return "16 bits (unchanged)" if bits == 16 else f"{bits} bits"


def result_sheets(result: Result) -> list[Sheet]:
    """Where the time went, the peak memory, what experts saw and the measured figures."""
    total = sum(result.seconds.values())
    stages: list[tuple[Any, ...]] = [
        (stage, f"{seconds:.1f} s", f"{seconds / total:.0%}") for stage, seconds in result.seconds.items()
    ]
    stages += [("total", f"{total:.1f} s", "100%"), ("peak memory", size(result.peak_bytes), None)]
    sheets = [rows("Cost", ("stage", "time", "share"), stages), *experts_sheets(result.experts)]
    return [*sheets, key_values("Figures", result.figures)] if result.figures else sheets


def experts_sheets(experts: Sequence[Experts]) -> list[Sheet]:
    """How many tokens of the calibration chose the experts, a line a layer."""
    told = [
        (one.module, len(one.tokens), min(one.tokens), median(one.tokens), max(one.tokens), one.wanted, one.cold)
        for one in experts
    ]
    columns = ("experts of", "number", "fewest", "median", "most", "wanted", "experts with fewer")
    return [rows(TOKENS, columns, told)] if told else []


def size(count: int) -> str:
    """Bytes for people: MB of a million."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
