"""A model that stays in memory while copies of it are quantized and scored beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eval.runs import Subject


@dataclass(frozen=True)
class Bench:
    """A model in memory with the tokens it is calibrated and scored on, (N, T) both, without the BOS `begin`."""

    name: str
    model: Any
    ids: Tensor
    windows: Tensor
    begin: int | None


def load(name: str, subject: Subject, size: tuple[int, int], tokens: int) -> Bench:
    """The model in float32, beginnings of its texts."""
    from sinkquant.evaluation.windows import text_windows
    from sinkquant.inputs.bos import bos_policy
    from sinkquant.models.load import load_model, load_tokenizer
    from sinkquant.models.source import resolve

    source = resolve(subject.model)
    tokenizer = load_tokenizer(source)
    network = load_model(source, dtype=torch.float32).requires_grad_(False)
    sequences, length = size

    def cut(path: Any, window: int, most: int) -> Tensor:
        return text_windows(path.read_text(encoding="utf-8")[: 20 * most], tokenizer, window=window, max_tokens=most)

    scored = cut(subject.text, min(512, tokens), tokens)
    begin = tokenizer.bos_token_id if bos_policy(subject.bos, tokenizer) else None
    return Bench(name, network, cut(subject.calibration, length, sequences * length), scored, begin)


def quantized(
    bench: Bench, chosen: Any, prefix: tuple[int, ...], change: Callable[[Any, Any], Any] | None = None
) -> tuple[Any, Any]:
    """A quantized copy of the model, and the Comparison of both. `change` may make another plan of plan and shapes."""
    from sinkquant.evaluation.compare import compare
    from sinkquant.flow.blocks import quantize_blocks
    from sinkquant.flow.plan import make_plan, weight_shapes
    from sinkquant.flow.session import Session
    from sinkquant.flow.transform import transform
    from sinkquant.formats.finished import Unfinished
    from sinkquant.inputs.batches import Batch, Batches
    from sinkquant.inputs.bos import in_front
    from sinkquant.models.experts import part_experts
    from sinkquant.models.trace import trace_roles
    from sinkquant.tasks.causal_lm import CAUSAL_LM
    from sinkquant.tasks.task import Data

    network = deepcopy(bench.model)
    part_experts(network)
    batches = Batches((Batch({"input_ids": bench.ids}),), "calibration")
    roles = trace_roles(network)
    begin = None if bench.begin in prefix else bench.begin
    session = Session(network, roles, CAUSAL_LM, None, bench.name, None, Data(batches, batches), {}, begin)
    shapes = weight_shapes(network, roles)
    plan = make_plan(chosen, prefix, roles, shapes, None)
    plan = plan if change is None else change(plan, shapes)
    transform(session, plan)
    with Unfinished() as stores:
        quantize_blocks(session, plan, stores.open({"case": chosen.digest(), "time": time.time()}), lambda *_: None)
        stores.clear()
    return network, compare(bench.model, network, *(in_front(bench.windows, bos) for bos in (bench.begin, begin)))
