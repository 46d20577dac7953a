"""Write a quantized model in memory as a checkpoint of the kind that its recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sinkquant.evaluation.versions import versions
from sinkquant.flow.plan import Plan
from sinkquant.flow.session import Session
from sinkquant.formats.format import FORMATS
from sinkquant.formats.manifest import write_manifest
from sinkquant.formats.write import copy_side_files, round_floats, shorten_texts
from sinkquant.models.source import Source


def export(session: Session, plan: Plan, folder: Path, facts: dict[str, Any], figures: dict[str, Any]) -> None:
    """Tensors, config.json, side files, manifest. Floats in memory are rounded to the stored dtype first."""
    model, roles, source = session.model, session.roles, session.source
    assert source is not None
    dtype = stored_dtype(plan.recipe.export.dtype, model, source)
    round_floats(model, dtype)
    FORMATS[plan.recipe.target].write(model, roles, plan, folder, facts, dtype)
    copy_side_files(source, folder)
    if roles.positions is not None and plan.prefix:
        shorten_texts(folder, roles.positions.places - len(plan.prefix))
    write_manifest(folder, {**facts, "figures": figures, "versions": versions()})


def stored_dtype(setting: str, model: Any, source: Source) -> torch.dtype:
    """`auto`: the half precision that the source is stored in, bfloat16 where it is something else."""
    if setting != "auto":
        return getattr(torch, setting)
    from sinkquant.models.load import load_config

    stated = None if source.gguf_file else getattr(load_config(source), "dtype", None)
    return stated if stated in (torch.bfloat16, torch.float16) else torch.bfloat16
