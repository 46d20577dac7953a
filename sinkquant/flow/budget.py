"""A budget of bits: measure what each site's rounding costs, and raise the sites where it costs most."""

from __future__ import annotations

from collections import Counter

from sinkquant.errors import UsageError
from sinkquant.flow.plan import Plan, count, raised
from sinkquant.flow.session import Session
from sinkquant.formats.finished import ResumeStore
from sinkquant.formats.format import FORMATS
from sinkquant.models.experts import expert_linears
from sinkquant.progress import Progress
from sinkquant.sensitivity.measure import measure
from sinkquant.sensitivity.spend import spend

TOKENS, LENGTH = 512, 128  # of calibration text: sites differ by factors, so that a few will do
SHOWN = 10  # sites whose sensitivity is reported


def spend_budget(session: Session, plan: Plan, store: ResumeStore, tell: Progress) -> tuple[Plan, dict[str, float]]:
    """The plan with some sites at 8 bits, and the largest sensitivities (KL in nats a token) by a site's first linear.

    The model is transformed and not yet rounded; `store` keeps what was measured.
    Raises UsageError where logits cannot be compared.
    """
    settings, shapes = plan.recipe.weights, plan.shapes
    assert settings.budget is not None
    # Stock loaders have one scheme for all experts.
    same = set() if FORMATS[plan.recipe.target].ours else set(expert_linears(session.model))
    sites = [site for block in session.roles.blocks for site in block.sites if not same & set(site.linears)]
    sizes = [count(site.linears, shapes) for site in sites]
    room = sum(sizes) * (settings.budget - settings.bits) / (8 - settings.bits)

    def make() -> dict[str, float]:
        search = settings.clip == "mse"
        few = session.task.beginnings(session.calibration, LENGTH, TOKENS)
        found = measure(
            session.model, session.roles, few, plan.linears, search=search, threshold=session.threshold, progress=tell
        )
        if found is None:
            raise UsageError(
                "weights.budget needs logits that are the head behind the final norm of one stack of blocks, which "
                "those of this model are not: set weights.budget=null."
            )
        return found

    losses: dict[str, float] = store.remember("sensitivity", make)
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
