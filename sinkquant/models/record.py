"""Record what every module of a model takes and gives in one forward pass over a few tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sinkquant.errors import SinkquantError
from sinkquant.inputs.batches import Batch
from sinkquant.models.attention import AttentionCall, own_attention, taps
from sinkquant.models.choices import Choices
from sinkquant.models.experts import everyone
from sinkquant.models.stream import Arguments
from sinkquant.models.stubs import call_model
from sinkquant.models.transposed import TransposedLinear

TOKENS = 7  # a prime: no dimension of a model is mistaken for the token axis


@dataclass
class Event:
    """One call of a module. Tensors are kept alive so that no storage is used twice."""

    name: str
    module: nn.Module
    arguments: Arguments
    result: Any
    input: Tensor  # the first tensor of the arguments
    output: Tensor  # the first tensor of the result


@dataclass
class Trace:
    """All calls of one forward pass over `probe`, in order of completion, and the attention calls by module name."""

    probe: Batch
    events: list[Event] = field(default_factory=list)
    calls: dict[str, list[AttentionCall]] = field(default_factory=dict)
    output: Tensor | None = None  # of the model: logits, last hidden states
    choosers: frozenset[str] = frozenset()  # linears that a choice among experts or tokens is made from
    own: bool = True  # attention went through our function

    def of(self, name: str) -> Event:
        """The first call of module `name`."""
        return next(event for event in self.events if event.name == name)

    def inside(self, name: str) -> list[Event]:
        """Calls of modules below module `name`."""
        return [event for event in self.events if event.name.startswith(name + ".")]


def first_tensor(value: object) -> Tensor | None:
    """The first tensor in a module's arguments or outputs."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple | list):
        return next((t for item in value if (t := first_tensor(item)) is not None), None)
    if isinstance(value, dict):
        return first_tensor(list(value.values()))
    return None


def record(model: nn.Module, probe: Batch, *, own: bool) -> Trace:
    """One pass over a small batch; `own`: through our attention function."""
    trace, choices = Trace(probe, own=own), Choices()
    names = {module: name for name, module in model.named_modules()}

    def keep(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        given, made = first_tensor((*args, kwargs)), first_tensor(output)
        if given is not None and made is not None:
            trace.events.append(Event(names[module], module, (args, kwargs), output, given, made))
            if isinstance(module, nn.Linear):
                choices.begin(names[module], made)

    def tap(module: nn.Module, call: AttentionCall) -> AttentionCall:
        trace.calls.setdefault(names[module], []).append(call)
        return call

    hooks = [module.register_forward_hook(keep, with_kwargs=True) for module in names if module is not model]
    try:
        with taps(list(names), tap), choices:
            trace.output = run_probe(model, probe, own=own)
    finally:
        for hook in hooks:
            hook.remove()
    trace.choosers = frozenset(choices.made_from)
    return trace


def token_probe(model: nn.Module) -> Batch:
    """A few different tokens, for models of text."""
    vocabulary = model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
    return Batch({"input_ids": ((torch.arange(1, TOKENS + 1) * 7919) % vocabulary)[None]})


def run_probe(model: nn.Module, probe: Batch, *, own: bool) -> Tensor:
    """One forward pass, in which experts see every token; returns the first tensor of numbers that the model gives:
    logits, hidden states, features."""
    with own_attention(model, own), everyone(model), torch.no_grad():
        outputs = call_model(model, probe)
    given = first_tensor(outputs)
    if given is None:
        raise SinkquantError(f"{type(model).__name__} gives no tensor, which is not supported.")
    return given


def is_linear(event: Event) -> bool:
    """Whether the module computed what nn.Linear does; routers may be made of it and return something else."""
    module = event.module
    if not isinstance(module, nn.Linear) or event.result is not event.output:
        return False
    if is_plain(module):
        return True
    if event.input.shape[-1] != module.in_features or event.output.shape[-1] != module.out_features:
        return False
    return torch.allclose(linear(event.input, module.weight, module.bias), event.output, rtol=1e-3, atol=1e-5)


def is_plain(module: nn.Module) -> bool:
    """Whether the model's class has torch's own linear there."""
    return type(module).forward is nn.Linear.forward and not isinstance(module, TransposedLinear)


def collinear(a: Tensor, b: Tensor) -> bool:
    """True if a = c·b for one number c (residual and embedding multipliers commute with a rotation)."""
    if a.numel() != b.numel() or a.shape[-1] != b.shape[-1]:
        return False
    a, b = a.double().flatten(), b.double().flatten()
    factor = (a @ b) / (b @ b).clamp_min(1e-30)
    return bool((a - factor * b).norm() <= 1e-4 * a.norm()) and float(factor.abs()) > 1e-6
