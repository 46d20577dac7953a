"""Transform a model in memory: fused rotations, online rotations, prefix. Exact, and checked on every run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from sinkquant.errors import SinkquantError
from sinkquant.evaluation.difference import difference
from sinkquant.flow.exactness import TOLERANCE, inexact, is_exact
from sinkquant.flow.plan import Plan
from sinkquant.flow.session import Session
from sinkquant.inputs.batches import Batch
from sinkquant.models.attention import NAME, own_attention, register, taps
from sinkquant.models.roles import SiteKind
from sinkquant.runtime.kv import prepend, scheme_of
from sinkquant.transforms.apply import Keys, Step, fused_steps
from sinkquant.transforms.attention import install_exact
from sinkquant.transforms.positions import cut, refuse_cut, turn, turned
from sinkquant.transforms.prefix import holders, prefix_states, refuse_prefix
from sinkquant.transforms.rotate import rotate_online
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
        with turned(model, roles.positions, len(prefix)):
            try:
                modules = holders(model, roles)
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
    model itself gives something else with padding. Raises SinkquantError above 1e-4, or what float32 makes of a model
    that amplifies its rounding.
    """
    model, roles, task = session.model, session.roles, session.task
    few = task.few(session.calibration)
    before = task.alone(model, few, plan.prefix)
    look = task.answer if _padding_changes_nothing(session, few) else task.alone
    if roles.attends:
        register()
        model.set_attn_implementation(NAME)
    turn(model, roles.positions, len(plan.prefix))
    install_exact(model, roles, plan.kv, plan.prefix)
    state = look(model, few)
    _check_attention(difference(state, before), plan)
    errors: dict[Keys, float] = {}
    for keys, step in _steps(session, plan):
        step()
        install_exact(model, roles, plan.kv, plan.prefix, rotate=keys == R3 or R3 in errors)
        after = look(model, few)
        errors[keys] = difference(after, state)
        state = after
        if not after.isfinite().all():  # nothing can be said of what follows
            break
    error = difference(state, before)
    if not is_exact(error, model, roles, state, lambda: look(model, few)):
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
            center=plan.recipe.activations.center, seed=rotations.seed, left=rotations.left,
            apart=rotations.apart,
        )  # fmt: skip
    down = {name for block in roles.blocks for s in block.sites if s.kind is SiteKind.DOWN_INPUT for name in s.linears}
    rotated = {name for name, scheme in plan.linears.items() if scheme.rotate}
    for key, names in (("transforms.inputs", rotated - down), ("transforms.r4", rotated & down)):
        if names:
            yield (key,), partial(rotate_online, model, names)
    if any(scheme_of(plan.kv, attention).rotate for block in roles.blocks for attention in block.attentions):
        yield R3, lambda: None  # by the attention
