"""Write a quantized model in memory as a checkpoint of the kind that its recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sinkquant.errors import SinkquantError
from sinkquant.evaluation.versions import versions
from sinkquant.flow.plan import Plan
from sinkquant.flow.session import Session
from sinkquant.formats.manifest import write_manifest
from sinkquant.formats.portable import quantization_config
from sinkquant.formats.write import copy_side_files, round_floats, save_model
from sinkquant.models.merged import merges
from sinkquant.models.roles import Roles
from sinkquant.models.source import Source
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.runtime.config import KEY, SinkquantQuantization, make_sink_aware
from sinkquant.runtime.embedding import QuantizedEmbedding
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import flag_final_norm


def export(session: Session, plan: Plan, folder: Path, facts: dict[str, Any], figures: dict[str, Any]) -> None:
    """Tensors, config.json, side files, manifest. Floats in memory are rounded to the stored dtype first."""
    model, roles, source = session.model, session.roles, session.source
    assert source is not None
    dtype = stored_dtype(plan.recipe.export.dtype, model, source)
    round_floats(model, dtype)
    schemes = {n: m.scheme for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    base = model.config
    if plan.recipe.target == "portable":
        # compressed-tensors takes whatever has a class of that name among its ancestors for a linear
        floats = tuple(n for n, m in model.named_modules() if any(c.__name__ == "Linear" for c in type(m).__mro__))
        model.config.quantization_config = quantization_config(schemes, floats)
        setattr(model.config, KEY, {"recipe": plan.recipe.name, "bos": facts["bos"]})
    else:
        flag_final_norm(model, roles.final_norm.name if roles.final_norm else None)
        model.config = make_sink_aware(base, _sink_facts(plan, facts), _quantization(model, roles, plan, schemes))
    try:
        own_names = plan.recipe.target == "portable" and merges(model)
        save_model(model, folder, dtype, plan.recipe.export.shard_size, own_names=own_names)
    finally:
        if plan.recipe.target != "portable":
            model.config._attn_implementation = base._attn_implementation
    copy_side_files(source, folder)
    write_manifest(folder, {**facts, "figures": figures, "versions": versions()})


def stored_dtype(setting: str, model: Any, source: Source) -> torch.dtype:
    """`auto`: the half precision that the source is stored in, bfloat16 where it is something else."""
    if setting != "auto":
        return getattr(torch, setting)
    from sinkquant.models.load import load_config

    stated = None if source.gguf_file else getattr(load_config(source), "dtype", None)
    return stated if stated in (torch.bfloat16, torch.float16) else torch.bfloat16


def _sink_facts(plan: Plan, facts: dict[str, Any]) -> dict[str, Any]:
    """What stands under `sinkquant` in config.json: enough to check that the prefix belongs to this model."""
    return {
        "recipe": plan.recipe.name,
        "prefix": list(plan.prefix),
        "bos": facts["bos"],
        "model_fingerprint": facts["model_fingerprint"],
        "basis": {"r2": bool(plan.rotations.values), "r3": plan.rotations.keys, "seed": plan.rotations.seed},
    }


def _quantization(model: Any, roles: Roles, plan: Plan, schemes: dict[str, LinearScheme]) -> SinkquantQuantization:
    attentions = [block.attention for block in roles.blocks if block.attention is not None]
    if len(attentions) < len(roles.blocks) and plan.prefix:
        raise SinkquantError("some blocks have no attention to hold the prefix; use --set sinks.prefix=none.")
    return SinkquantQuantization(
        linears=schemes,
        attentions={a.module: plan.kv for a in attentions},
        prefix_length=len(plan.prefix),
        kv_shapes={a.module: (a.kv_heads, a.head_dim, a.value_dim) for a in attentions},
        embeddings=tuple(n for n, m in model.named_modules() if isinstance(m, QuantizedEmbedding)),
        final_norm=roles.final_norm.name if roles.final_norm else None,
        untied_head=not getattr(model.config, "tie_word_embeddings", False),
    )
