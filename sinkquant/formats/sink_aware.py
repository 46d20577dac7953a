"""Sink-aware checkpoints: with prefix, online rotations and everything else that our runtime computes.

A stock loader fails with an error in place of answering wrongly: `model_type` is our own, and so is a shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sinkquant.errors import SinkquantError
from sinkquant.formats.format import Asked, Change, Format, Planned, Runtime, Scheme, in_words

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from sinkquant.formats.facts import Manifest
    from sinkquant.inputs.batches import Batch
    from sinkquant.models.roles import Roles
    from sinkquant.runtime.config import PositionKind, SinkquantQuantization


class SinkAware(Format):
    """Loaded by transformers once sinkquant is imported, and by vLLM with our plug-in."""

    holds = "whatever a recipe can ask for"
    quant_method = "sinkquant"
    ours = True

    def changes(self, plan: Planned, model: Any, roles: Roles, probe: Batch) -> Iterable[Change]:
        """The embedding keeps its precision where 8-bit rows cannot stand for it, or no parameter would be left."""
        from sinkquant.runtime.embedding import QuantizedEmbedding

        if roles.embedding is None or plan.bits[roles.embedding] == 16:
            return
        gone = {name for name, bits in plan.bits.items() if bits < 16}
        if not QuantizedEmbedding.fits(model.get_submodule(roles.embedding)):
            why = "it does more than to look up rows"
        elif all(name.rpartition(".")[0] in gone for name, _ in model.named_parameters()):
            why = "the model would have no parameter left, which transformers asks for dtype and device"
        else:
            return
        yield Change(f"the embedding keeps its precision: {why}", bits={roles.embedding: 16})

    def write(
        self, model: Any, roles: Roles, plan: Planned, folder: Path, facts: Mapping[str, Any], dtype: torch.dtype
    ) -> None:
        """The prefix lies beside the weights, and what it belongs to stands in config.json."""
        from sinkquant.formats.write import save_model
        from sinkquant.runtime.config import make_sink_aware
        from sinkquant.runtime.modules import flag_final_norm

        base = model.config
        flag_final_norm(model, roles.final_norm.name if roles.final_norm else None)
        model.config = make_sink_aware(base, _facts(plan, facts), _quantization(model, roles, plan))
        try:
            config = model.config.quantization_config
            on_disk = str if config.experts or roles.towers else None  # those of the model
            save_model(model, folder, dtype, plan.recipe.export.shard_size, on_disk=on_disk)
        finally:
            model.config._attn_implementation = base._attn_implementation

    def read(self, folder: Path, manifest: Manifest, asked: Asked) -> Any:
        """The prefix must be that of this model."""
        from sinkquant.formats.build import build
        from sinkquant.runtime.config import KEY, load_base_config
        from sinkquant.tasks.tasks import TASKS

        config = load_base_config(folder, asked.trust_remote_code)
        model = build(folder, config, TASKS[manifest.task], asked, ours=True)
        stated = (getattr(model.config, KEY, None) or {}).get("model_fingerprint")
        if stated is not None and stated != manifest.model_fingerprint:
            raise SinkquantError(f"the prefix in {folder} belongs to another model: quantize this model again.")
        return model

    def schemes(self, quantization: Mapping[str, Any]) -> Mapping[str, Scheme]:
        """By groups of equal schemes; embeddings have 8 bits a row."""
        found: dict[str, Scheme] = {}
        for group in quantization["linears"]:
            weight, inputs = group["scheme"]["weight"], group["scheme"]["activation"]
            words = in_words(weight["bits"], weight["group_size"]) if weight else "float"
            given = f"{inputs['bits']} bits {inputs['mode']}" if inputs else "float"
            given += ", images in a range of their own" if inputs and inputs.get("media") else ""
            given += ", outlier tokens in float" if inputs and inputs.get("route") else ""
            spikes = group["scheme"].get("spikes", 0)
            given += f", {spikes} spike unit{'s' if spikes > 1 else ''} in float" if spikes else ""
            found |= dict.fromkeys(group["targets"], Scheme(words, given, group["scheme"]["rotate"]))
        return found | dict.fromkeys(quantization["embeddings"], Scheme(in_words(8, None)))

    def kv(self, quantization: Mapping[str, Any]) -> Mapping[str, Any]:
        """That of the attentions which keep any, the same in all blocks."""
        groups = [*quantization["attentions"], *quantization.get("cached", ())]
        schemes = [group["scheme"] for group in groups] or [super().kv(quantization)]
        return {key: value for key, value in min(schemes, key=lambda one: one["bits"]).items() if key != "shape"}

    def runtimes(self, quantization: Mapping[str, Any], *, prefix: bool, serves: bool) -> tuple[Runtime, ...]:
        """Those with our code."""
        kv = self.kv(quantization)
        rotates = kv.get("rotate") or any(group["scheme"]["rotate"] for group in quantization["linears"])
        needed = {"the prefix": prefix, "the online rotations": rotates, "the schemes of the modules": True}
        why = " and ".join([name for name, needs in needed.items() if needs][:2])
        stock = f"refuses it with an error: {why} need sinkquant"
        if not serves:
            vllm = Runtime("vLLM + sinkquant", False, "the plug-in serves causal language models alone")
        elif quantization.get("positions", "rotary") != "rotary":
            vllm = Runtime("vLLM + sinkquant", False, "prompts begin with the prefix there; use sinks.prefix=none")
        elif quantization.get("experts"):
            vllm = Runtime("vLLM + sinkquant", False, "experts that are taken apart are not run there yet")
        elif quantization.get("cached"):
            vllm = Runtime("vLLM + sinkquant", False, "keys and values are rounded in a cache of transformers")
        elif kv.get("recent"):
            vllm = Runtime("vLLM + sinkquant", False, "keeps no newest tokens in full precision; use kv_cache.recent=0")
        else:
            loss = "the cache is rounded but does not shrink" if kv["bits"] < 16 else "nothing"
            vllm = Runtime("vLLM + sinkquant", True, loss + ("; every prompt begins with the prefix" if prefix else ""))
        return (
            Runtime("transformers + sinkquant", True, "nothing"),
            Runtime("transformers", False, stock),
            vllm,
            Runtime("vLLM", False, stock),
            Runtime("SGLang", False, stock),
        )


def _facts(plan: Planned, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What stands under `sinkquant` in config.json: enough to check that the prefix belongs to this model."""
    return {
        "recipe": plan.recipe.name,
        "prefix": list(plan.prefix),
        "bos": facts["bos"],
        "model_fingerprint": facts["model_fingerprint"],
        "basis": {"r2": bool(plan.rotations.values), "r3": plan.rotations.keys, "seed": plan.rotations.seed},
    }


def _quantization(model: Any, roles: Roles, plan: Planned) -> SinkquantQuantization:
    from sinkquant.formats.write import linear_schemes
    from sinkquant.models.experts import parted_experts
    from sinkquant.models.stand_ins import stand_ins
    from sinkquant.runtime.config import SinkquantQuantization
    from sinkquant.runtime.embedding import QuantizedEmbedding
    from sinkquant.runtime.kv import scheme_of

    attentions = [attention for block in roles.blocks for attention in block.attentions]
    holders = {b.attention.module for b in roles.text.blocks if b.attention is not None} if roles.text else set()
    if plan.prefix and (roles.text is None or len(holders) < len(roles.text.blocks)):
        raise SinkquantError("some blocks have no attention to hold the prefix; use --set sinks.prefix=none.")
    cached = [cached for block in roles.blocks for cached in block.cached if plan.kv.bits < 16]
    linears = linear_schemes(model)
    return SinkquantQuantization(
        linears=linears,
        attentions={a.module: scheme_of(plan.kv, a) for a in attentions},
        prefix_length=len(plan.prefix),
        kv_shapes={a.module: (a.kv_heads, a.head_dim, a.value_dim) for a in attentions},
        embeddings=tuple(n for n, m in model.named_modules() if isinstance(m, QuantizedEmbedding)),
        final_norm=roles.final_norm.name if roles.final_norm else None,
        untied_head=not getattr(model.config, "tie_word_embeddings", False),
        positions=_positions(plan, roles),
        experts=(*parted_experts(model), *stand_ins(model)),
        media=roles.media if any(s.activation and s.activation.media for s in linears.values()) else None,
        bare=tuple(a.module for a in attentions if plan.prefix and a.module not in holders),
        cached={one.module: (plan.kv, one) for one in cached},
    )


def _positions(plan: Planned, roles: Roles) -> PositionKind:
    if roles.positions is None or not plan.prefix:
        return "rotary" if roles.counts else "uncounted"
    return "table" if roles.positions.counted else "uncounted"


SINK_AWARE = SinkAware()
