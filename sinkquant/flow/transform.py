"""Transform a model in memory: fused rotations, online rotations, prefix. Exact, and checked on every run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import nn

from sinkquant.errors import SinkquantError
from sinkquant.evaluation.difference import difference
from sinkquant.flow.exactness import TOLERANCE, inexact
from sinkquant.flow.plan import Plan
from sinkquant.flow.session import Session
from sinkquant.inputs.batches import Batch
from sinkquant.models.attention import NAME, own_attention, register, taps
from sinkquant.models.roles import Roles, SiteKind
from sinkquant.quantization.scheme import KVScheme, LinearScheme
from sinkquant.runtime.kv import install, prepend, scheme_of
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.runtime.positions import install_positions
from sinkquant.transforms.apply import Keys, Step, fused_steps
from sinkquant.transforms.hadamard import fast_hadamard
from sinkquant.transforms.positions import cut, refuse_cut, turn, turned
from sinkquant.transforms.prefix import prefix_states, refuse_prefix
from sinkquant.transforms.smoothing import smooth

R3: Keys = ("transforms.r3",)


def no_prefix(session: Session, prefix: tuple[int, ...]) -> str | None:
    """Why the model cannot have `prefix` as a constant, or None; tried on a little data, nothing is left behind."""
    model, roles, task = session.model, session.roles, session.task
    reason = refuse_prefix(roles)
    if reason is not None or not prefix:
        return reason
    if task.answers_are == "features" and set(prefix) != {session.data.begin}:
        return "texts do not begin with it where the model is used, so that it would turn every vector"
    if roles.positions is not None and (reason := refuse_cut(model, roles.positions, len(prefix))) is not None:
        return reason
    few = task.few(session.data.calibration)
    with own_attention(model):
        before = task.alone(model, few, prefix)
    with turned(model, roles.positions, len(prefix)), own_attention(model):
        try:
            modules = [model.get_submodule(block.attention.module) for block in roles.blocks if block.attention]
            states = dict(zip(modules, prefix_states(model, roles, prefix), strict=True))
        except Exception:  # from a model's code, to which nothing is at a position before the first
            return "the model takes no positions in front of the text"
        with taps(modules, lambda module, call: prepend(call, *states[module])):
            error = difference(task.alone(model, few), before)
    if not error <= TOLERANCE:
        return f"as a constant it gives other logits than in front of the text, {error:.1e} of their scale apart"
    return None


def transform(session: Session, plan: Plan) -> float:
    """Apply the plan's transformations; returns the largest difference of the answers, relative to their scale.

    The reference is the untouched model with the prefix in context; the result is checked with padding, unless the
    model itself gives something else with padding. Raises SinkquantError above 1e-4.
    """
    model, roles, task = session.model, session.roles, session.task
    few = task.few(session.calibration)
    before = task.alone(model, few, plan.prefix)
    look = task.answer if _padding_changes_nothing(session, few) else task.alone
    if roles.attends:
        register()
        model.set_attn_implementation(NAME)
    turn(model, roles.positions, len(plan.prefix))
    _install_attention(model, roles, plan)
    state = look(model, few)
    _check_attention(difference(state, before), plan)
    errors: dict[Keys, float] = {}
    for keys, step in _steps(session, plan):
        step()
        _install_attention(model, roles, plan, rotate=keys == R3 or R3 in errors)
        after = look(model, few)
        errors[keys] = difference(after, state)
        state = after
        if not after.isfinite().all():  # nothing can be said of what follows
            break
    error = difference(state, before)
    if not error <= TOLERANCE:
        raise inexact(errors, error, plan.recipe, bool(plan.rotations.stream))
    cut(model, roles.positions, len(plan.prefix))
    return error


def _padding_changes_nothing(session: Session, few: Batch) -> bool:
    """Some models number their tokens from the padding on."""
    plain = session.task.alone(session.model, few)
    return difference(session.task.answer(session.model, few), plain) <= TOLERANCE


def _check_attention(error: float, plan: Plan) -> None:
    if not error <= TOLERANCE:
        prefix = " with this prefix (try --set sinks.prefix=none)" if plan.prefix else ""
        raise SinkquantError(
            f"with sinkquant's attention the model gives other logits, {error:.1e} of their scale apart (limit "
            f"{TOLERANCE}), before anything is transformed: its architecture does not work yet{prefix}; report it."
        )


def _steps(session: Session, plan: Plan) -> Iterator[Step]:
    """The plan's transformations in the order in which each is exact; the moments are those of a model with prefix."""
    model, roles = session.model, session.roles
    rotations, balance = plan.rotations, plan.kv.balance
    yield from fused_steps(model, roles, rotations)
    if rotations.smooth or balance:
        wanted = {"transforms.smooth": rotations.smooth, "kv_cache.balance": balance}
        yield tuple(key for key in wanted if wanted[key]), lambda: smooth(
            model, roles, session.calibration, session.threshold, linears=rotations.smooth, keys=balance,
            center=plan.recipe.activations.center, seed=rotations.seed,
        )  # fmt: skip
    down = {name for block in roles.blocks for s in block.sites if s.kind is SiteKind.DOWN_INPUT for name in s.linears}
    rotated = {name for name, scheme in plan.linears.items() if scheme.rotate}
    for key, names in (("transforms.inputs", rotated - down), ("transforms.r4", rotated & down)):
        if names:
            yield (key,), partial(_rotate_online, model, names)
    if any(scheme_of(plan.kv, attention).rotate for block in roles.blocks for attention in block.attentions):
        yield R3, lambda: None  # by the attention


def _install_attention(model: nn.Module, roles: Roles, plan: Plan, *, rotate: bool = False) -> None:
    """R3, with `rotate`, and the prefix, computed from the weights as they are now."""
    for attention in (attention for block in roles.blocks for attention in block.attentions):
        module = model.get_submodule(attention.module)
        module._buffers.pop("sink_key", None)
        module._buffers.pop("sink_value", None)
        install(module, _exact(scheme_of(plan.kv, attention), module, rotate), None, None)
    if not plan.prefix:
        return
    modules = [model.get_submodule(block.attention.module) for block in roles.blocks if block.attention is not None]
    for module, (key, value) in zip(modules, prefix_states(model, roles, plan.prefix), strict=True):
        install(module, _exact(plan.kv, module, rotate), key, value)
    if roles.positions is None or roles.positions.counted:
        install_positions(model)


def _exact(scheme: KVScheme, module: nn.Module, rotate: bool) -> KVScheme:
    """The scheme without its quantization, and without transforms that the module does not have yet."""
    return KVScheme(rotate=rotate and scheme.rotate, balance=scheme.balance and hasattr(module, "key_transform"))


def _rotate_online(model: nn.Module, names: Iterable[str]) -> None:
    """R4 and its like: the rotation of the input stays online, its inverse goes into the weight."""
    for name in names:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        with torch.no_grad():
            linear.weight.copy_(fast_hadamard(linear.weight.double()))
        replace_module(model, name, QuantizedLinear.from_linear(linear, LinearScheme(None, None, rotate=True), None))
