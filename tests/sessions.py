"""A session around a model in memory and token ids."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sinkquant.flow.session import Session
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.models.roles import Roles
from sinkquant.models.trace import trace_roles
from sinkquant.tasks.causal_lm import CAUSAL_LM
from sinkquant.tasks.task import Data


def text_session(model: Any, ids: Tensor, roles: Roles | None = None, threshold: float = 64.0) -> Session:
    """`ids` (N, T) are calibration and held-out text at once."""
    batches = Batches((Batch({"input_ids": ids}),), "test")
    roles = roles if roles is not None else trace_roles(model)
    return Session(model, roles, CAUSAL_LM, None, "test", None, Data(batches, batches), {}, threshold=threshold)
