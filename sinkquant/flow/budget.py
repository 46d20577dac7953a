"""A budget of bits: measure what each site's rounding costs, and raise the sites where it costs most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sinkquant.errors import UsageError
from sinkquant.flow.plan import Plan, Shapes, count, raised
from sinkquant.formats.finished import ResumeStore
from sinkquant.models.roles import Roles
from sinkquant.sensitivity.measure import measure
from sinkquant.sensitivity.spend import spend

TOKENS, LENGTH = 512, 128  # of calibration text: sites differ by factors, so that a few will do
SHOWN = 10  # sites whose sensitivity is reported


def spend_budget(
    model: Any, roles: Roles, plan: Plan, shapes: Shapes, ids: Tensor, threshold: float, store: ResumeStore,
    progress: Callable[[int, int], None],
) -> tuple[Plan, dict[str, float]]:  # fmt: skip
    """The plan with some sites at 8 bits, and the largest sensitivities (KL in nats a token) by a site's first linear.

    `model` is transformed and not yet rounded, `ids` (N, T) the calibration text; `store` keeps what was measured.
    Raises UsageError where logits cannot be compared.
    """
    settings = plan.recipe.weights
    assert settings.budget is not None

    def make() -> dict[str, float]:
        search = settings.clip == "mse"
        found = measure(model, roles, sample(ids), plan.linears, search=search, threshold=threshold, progress=progress)
        if found is None:
            raise UsageError(
                "weights.budget needs logits that are the head behind the final norm, which this model changes: "
                "set weights.budget=null."
            )
        return found

    losses: dict[str, float] = store.remember("sensitivity", make)
    sites = [site for block in roles.blocks for site in block.sites]
    sizes = [count(site.linears, shapes) for site in sites]
    room = sum(sizes) * (settings.budget - settings.bits) / (8 - settings.bits)
    chosen = [sites[i] for i in spend([losses[site.linears[0]] for site in sites], sizes, room)]
    names = {name for site in chosen for name in site.linears}
    average = settings.bits + (8 - settings.bits) * count(names, shapes) / sum(sizes)
    kinds = Counter(site.kind.value.replace("_", " ") for site in chosen)
    note = (
        f"{average:.2f} bits a weight on average: {len(chosen)} of {len(sites)} sites are raised to 8 bits "
        f"({', '.join(f'{count} {kind}' for kind, count in kinds.most_common()) or 'none fits'})"
    )
    largest = sorted(losses, key=lambda name: -losses[name])[:SHOWN]
    return raised(plan, names, shapes, note), {name: losses[name] for name in largest}


def sample(ids: Tensor) -> Tensor:
    """The beginnings of some sequences of `ids` (N, T), evenly spaced: at most `TOKENS` tokens."""
    length = min(LENGTH, ids.shape[1])
    rows = min(len(ids), max(1, TOKENS // length))
    return ids[:: len(ids) // rows][:rows, :length]
