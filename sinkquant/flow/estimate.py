"""What a run will cost, before it starts: time from the machine's measured speed, memory from the shapes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sinkquant.flow.budget import TOKENS
from sinkquant.flow.plan import Plan, count

PASSES = {"kv": 0.0, "rtn": 1.0, "static": 3.4, "gptq": 3.4}  # forward passes of the blocks
TUNING = 4.0  # passes of a step of distillation: forward, again for the backward pass, gradients of both factors
OVERHEAD = 2.0  # attention, searches and rounding, relative to the linears' products; measured on SmolLM2
MEASURING = 10.0  # passes of the blocks that sensitivity takes: forward twice, once for every site, back for every draw
LIBRARIES = 600e6  # bytes that torch and transformers take by themselves


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of memory; rough, meant to tell minutes from hours."""

    seconds: float
    memory: float


def estimate(plan: Plan, tokens: int) -> Estimate:
    """For `tokens` calibration tokens on this machine."""
    shapes = plan.shapes
    inside = count(plan.linears, shapes)
    total = sum(out * width for out, width in _matrices(plan).values())
    work = 2.0 * inside * tokens * PASSES[_kind(plan)] * OVERHEAD
    if plan.recipe.weights.budget is not None:
        work += 2.0 * TOKENS * (inside * MEASURING + total)
    tuning = plan.recipe.tuning
    work += 2.0 * total * min(tokens, tuning.tokens or tokens) * TUNING * tuning.epochs
    widest = max(shapes[name][1] for name in plan.linears)
    narrow = min(shapes[name][1] for name in plan.linears)
    activations = 4.0 * tokens * (3 * widest + 2 * narrow)
    return Estimate(work / speed() + total / 2e7, LIBRARIES + 4.0 * total * 1.3 + activations)


def _matrices(plan: Plan) -> Mapping[str, tuple[int, int]]:
    return {name: plan.shapes[name] for name in plan.bits}


def _kind(plan: Plan) -> str:
    recipe = plan.recipe
    if recipe.weights.bits == 16 and recipe.activations.bits == 16:
        return "kv"
    if recipe.weights.method == "gptq":
        return "gptq"
    return "static" if recipe.activations.mode == "static" else "rtn"


def speed(size: int = 768) -> float:
    """Floating-point operations a second of a matrix product in float32, measured in a few milliseconds."""
    a = torch.randn(size, size)
    a @ a
    start = time.perf_counter()
    for _ in range(5):
        a @ a
    return 5 * 2.0 * size**3 / (time.perf_counter() - start)
