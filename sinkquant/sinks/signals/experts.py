"""What every chosen expert writes into the spikes of the stream (super experts, arXiv 2507.23279)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sinkquant.models.experts import count_experts, expert_of, fused_experts, parted_experts
from sinkquant.models.stream import by_token
from sinkquant.sinks.signals.residual import token_peaks, token_ratio
from sinkquant.walk.walk import BlockRun

STANDS_OUT = 5.0  # times the median token: below that no threshold calls a token a sink
RISES = 0.1  # of the peak: a block that adds less only carries on what others wrote
NOTHING = 0.01  # of the peak: experts that add less together are told from rounding errors no longer

Call = tuple[Tensor, Tensor, Tensor]  # tokens (n, D), chosen experts (n, k), their weights (n, k)


@dataclass(frozen=True, eq=False)
class Written:
    """What the experts of one module write at n tokens that stand out, each into the channel of the token's peak.

    `token` (n,): place among all rows of the stack; `channel` (n,). Of the chosen experts, (n, k): `expert`; `score`,
    what the router weighs it by; `amount`, what it adds to the stream there, counted in the peak's direction; `column`,
    the hidden unit that adds most of it.
    """

    block: int
    module: str
    token: Tensor
    channel: Tensor
    expert: Tensor
    score: Tensor
    amount: Tensor
    column: Tensor


@contextmanager
def expert_calls(block: nn.Module, prefix: str) -> Iterator[dict[str, list[Call]]]:
    """Collect how every module of experts in the block is called, call by call, under its name in the model."""
    seen: dict[str, list[Call]] = {}
    hooks = []
    for name in (*fused_experts(block), *parted_experts(block)):
        calls = seen.setdefault(f"{prefix}.{name}", [])
        hooks.append(block.get_submodule(name).register_forward_pre_hook(lambda _, args, c=calls: c.append(args[:3])))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def written_by_experts(
    run: BlockRun, outputs: Sequence[Tensor], calls: Mapping[str, Sequence[Call]], index: int
) -> list[Written]:
    """For the block's `outputs`, a batch each, and the `calls` that made them; `index` is the block's in its stack."""
    return [
        found for name, given in calls.items() if len(given) == len(outputs)
        for found in _written(run, outputs, name, given, index)
    ]  # fmt: skip


def _written(
    run: BlockRun, outputs: Sequence[Tensor], name: str, calls: Sequence[Call], index: int
) -> Iterator[Written]:
    before = 0
    for batch, (output, call) in enumerate(zip(outputs, calls, strict=True)):
        mask = run.masks[batch]
        after, taken = (by_token(x, *mask.shape) for x in (output, run.inputs[batch]))
        peaks, channels = token_peaks(after)
        value, entered = (x.gather(-1, channels[..., None])[..., 0] for x in (after, taken))
        risen = (value - entered) * value.sign() >= RISES * peaks
        out = mask & risen & (token_ratio(peaks) >= STANDS_OUT)
        tokens = out.flatten().nonzero().flatten()
        if len(tokens) and call[0].shape == after.flatten(0, 1).shape:
            channel, peak = channels.flatten()[tokens], value.flatten()[tokens]
            expert, score = call[1][tokens], call[2][tokens]
            part, column = _parts(run.inside(name), call[0][tokens], expert, channel)
            part = part * score
            alone = by_token(_without(run, name, batch), *mask.shape).flatten(0, 1)[tokens, channel]
            routed = (peak - alone) * peak.sign()  # what is behind the experts, a norm or a factor, included
            factor = torch.where(routed.abs() >= NOTHING * peak.abs(), routed / part.sum(-1), 0.0)
            amount = part * torch.nan_to_num(factor, posinf=0.0, neginf=0.0)[:, None]
            yield Written(index, name, tokens + before, channel, expert, score, amount, column)
        before += mask.numel()


def _parts(module: nn.Module, x: Tensor, experts: Tensor, channel: Tensor) -> tuple[Tensor, Tensor]:
    """What every chosen expert gives in `channel` (n,) for tokens `x` (n, D), and the column of the weight that gives
    most of it; (n, k) both, zeros where an index is nobody's."""
    part = torch.zeros(experts.shape, device=x.device)
    column = torch.zeros(experts.shape, dtype=torch.int64, device=x.device)
    for number in experts[experts < count_experts(module)].unique().tolist():
        rows, places = (experts == number).nonzero(as_tuple=True)
        expert = expert_of(module, number)
        down = expert.down_proj
        terms = (expert.hidden(x[rows], module) * down.weight[channel[rows]]).float()
        total = terms.sum(-1)
        column[rows, places] = (terms * total.sign()[:, None]).argmax(-1)
        part[rows, places] = total if down.bias is None else total + down.bias[channel[rows]].float()
    return part, column


def _without(run: BlockRun, name: str, batch: int) -> Tensor:
    """The block's output for one batch where the experts give nothing."""

    def silence(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*args[:2], torch.zeros_like(args[2]), *args[3:])

    handle = run.inside(name).register_forward_pre_hook(silence)
    try:
        return run.forward(batch)
    finally:
        handle.remove()
