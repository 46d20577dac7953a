"""What those who will load a checkpoint ask of its model and plan, decided before any work."""

from __future__ import annotations

from typing import Any

from sinkquant.errors import UsageError
from sinkquant.flow.plan import Plan, Shapes, reshaped
from sinkquant.formats.format import FORMATS
from sinkquant.inputs.batches import Batch
from sinkquant.models.roles import Roles
from sinkquant.recipes.schema import Recipe


def refuse_unloadable(recipe: Recipe, model: Any, roles: Roles) -> None:
    """Raise UsageError where no loader of the recipe's format would load this model."""
    why = FORMATS[recipe.target].refuses(recipe, model, roles)
    if why is not None:
        raise UsageError(why)


def loadable(plan: Plan, model: Any, roles: Roles, shapes: Shapes, probe: Batch) -> Plan:
    """The plan that the loaders of its format can carry out."""
    for change in FORMATS[plan.recipe.target].changes(plan, model, roles, probe):
        linears, bits = {**plan.linears, **change.linears}, {**plan.bits, **change.bits}
        plan = reshaped(plan, linears, bits, shapes, change.note)
    return plan
