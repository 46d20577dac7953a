"""Portable checkpoints: the layout of compressed-tensors, which stock transformers, vLLM and SGLang load.

They share two integer schemes: packed 4-bit weights, and int8 weights with one scale a channel under int8 activations.
They skip online rotations in silence, keep their own attention and KV cache, and do not agree on quantized embeddings
and heads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sinkquant.formats.format import Asked, Change, Format, Planned, Runtime, Scheme, in_words

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from sinkquant.formats.facts import Manifest
    from sinkquant.inputs.batches import Batch
    from sinkquant.models.roles import Roles

NEEDS: Mapping[str, object] = {
    "sinks.prefix": "none",
    "transforms.r3": False,
    "transforms.r4": False,
    "transforms.inputs": False,
    "activations.center": False,
    "activations.route": None,
    "activations.spikes": 0,
    "weights.symmetric": True,  # loaders expect packed zero points in another shape than the format's own
    "weights.head_bits": 16,
    "weights.embedding_bits": 16,
    "weights.super_experts": None,  # loaders merge the experts of a layer, under one scheme
    "kv_cache.bits": 16,
    "kv_cache.balance": False,
}
INT8: Mapping[str, object] = {
    "weights.bits": 8, "weights.group_size": None, "weights.budget": None,
    "activations.bits": 8, "activations.symmetric": True,
}  # fmt: skip


class Portable(Format):
    """Correct without any of our code. Read by us it stays packed, bit for bit what stock transformers computes."""

    holds = "symmetric W4A16, or symmetric W8A8 with one scale a channel"
    quant_method = "compressed-tensors"

    def needs(self, recipe: Any) -> Mapping[str, object]:
        """Those of one of the two schemes, whichever is nearer."""
        weights = recipe.weights
        one = {"activations.modality": "one"} if recipe.activations.modality == "own" else {}
        if recipe.activations.bits < 16 or weights.bits == 8:
            return {**NEEDS, **one, **INT8}
        small = weights.budget is not None and weights.budget <= 4  # of no use above 4 bits
        return {**NEEDS, **one, "weights.bits": 4, **({"weights.budget": None} if small else {})}

    def experts(self, model: Any) -> Collection[str] | None:
        """Those that lie on disk one by one; transformers would not find packed ones in a fused tensor."""
        from sinkquant.models.merged import stored_apart
        from sinkquant.models.stand_ins import replaceable

        return [*stored_apart(model), *replaceable(model)]

    def refuses(self, recipe: Any, model: Any, roles: Roles) -> str | None:
        """Where stock loaders have no place for packed weights, or look for float ones."""
        from sinkquant.formats.stock import refuses

        return refuses(recipe, model, roles)

    def changes(self, plan: Planned, model: Any, roles: Roles, probe: Batch) -> Iterable[Change]:
        """Dynamic inputs and packed weights do not fit every linear."""
        from sinkquant.formats.stock import changes

        return changes(plan, model, roles, probe)

    def write(
        self, model: Any, roles: Roles, plan: Planned, folder: Path, facts: Mapping[str, Any], dtype: torch.dtype
    ) -> None:
        """Everything of ours stands under a key of its own."""
        from sinkquant.formats.compressed import quantization_config
        from sinkquant.formats.stock import left_out
        from sinkquant.formats.write import linear_schemes, save_model
        from sinkquant.models.experts import expert_linears
        from sinkquant.models.merged import merges, other_heads, stored_names
        from sinkquant.runtime.config import KEY

        linears = expert_linears(model)
        on_disk = stored_names(model) if linears else str if merges(model) else None
        homes = list(dict.fromkeys(on_disk(f"{name}.weight").rsplit(".", 3)[0] for name in linears)) if on_disk else []
        ignore = left_out(model, on_disk or str)
        stated = quantization_config(linear_schemes(model), ignore, linears, homes)
        model.config.quantization_config = stated
        own = {"recipe": plan.recipe.name, "bos": facts["bos"]}
        heads = other_heads(set(linear_schemes(model)) - set(linears), on_disk or stored_names(model))
        told = {"experts": homes, "names": heads}
        setattr(model.config, KEY, own | {key: value for key, value in told.items() if value})
        save_model(model, folder, dtype, plan.recipe.export.shard_size, on_disk=on_disk)

    def read(self, folder: Path, manifest: Manifest, asked: Asked) -> Any:
        """Packed, unless the stock loader is asked for or tensors have other names in the model than on disk."""
        from sinkquant.formats.build import build, unpack
        from sinkquant.formats.compressed import own_quantization, quantized_linears
        from sinkquant.models.merged import names_in_model
        from sinkquant.runtime.config import KEY, load_base_config
        from sinkquant.runtime.modules import OtherNames
        from sinkquant.tasks.tasks import TASKS

        task = TASKS[manifest.task]
        if asked.execution != "stock":
            config = load_base_config(folder, asked.trust_remote_code)
            stated = config.quantization_config
            try:
                experts = (getattr(config, KEY, None) or {}).get("experts")
                rename = partial(names_in_model, config, task.auto) if experts else None
                own = own_quantization(folder, stated, manifest.recipe.weights.limit, rename)
                config.quantization_config = own.to_dict()
                model = build(folder, config, task, asked, ours=True)
                model.config.quantization_config = stated  # what is saved from it is portable again
                return model
            except OtherNames:
                # compressed-tensors cannot unpack what lies on disk, and kernels want codes
                if asked.execution == "auto" or asked.offload_folder is not None:
                    raise
        quantized_linears(folder)  # raises where one is incomplete
        config = load_base_config(folder, asked.trust_remote_code)
        return unpack(build(folder, config, task, asked, ours=False), task)

    def schemes(self, quantization: Mapping[str, Any]) -> Mapping[str, Scheme]:
        """By config groups; `Linear` stands for every linear that is not ignored."""
        found: dict[str, Scheme] = {}
        for group in quantization["config_groups"].values():
            weight, inputs = group["weights"], group.get("input_activations")
            given = f"{inputs['num_bits']} bits {'dynamic' if inputs['dynamic'] else 'static'}" if inputs else "float"
            scheme = Scheme(in_words(weight["num_bits"], weight.get("group_size")), given)
            found |= dict.fromkeys(group["targets"], scheme)
        return found

    def runtimes(self, quantization: Mapping[str, Any], *, prefix: bool, serves: bool) -> tuple[Runtime, ...]:
        """Servers only where they have been tried or say that they do."""
        same = "nothing: everything is fused into the weights"
        ours = "files are checked before they are loaded, weights stay packed"
        stock = "weights are unpacked to float at the first call"
        vllm = "needs a kernel for these bits and groups on the device"
        if quantization.get("experts"):
            stock = "experts are unpacked to float and merged while it loads, other weights at the first call"
            vllm = f"by its source, mixtures are not tried by this project: {_experts_in_vllm(quantization)}"
        libraries = (
            Runtime("transformers + compressed-tensors", True, f"{same}; {stock}"),
            Runtime("transformers + sinkquant", True, f"{same}; {ours}"),
        )
        if not serves:
            return libraries
        return (
            *libraries,
            Runtime("vLLM", True, f"{same}; {vllm}"),
            Runtime("SGLang", True, f"{same}; reads this format by its documentation, not tried by this project"),
        )


def _experts_in_vllm(quantization: Mapping[str, Any]) -> str:
    """What it has for experts in float inputs, which stock transformers asks for."""
    groups = quantization["config_groups"].values()
    own = (group for group in groups if any("experts" in target for target in group["targets"]))
    bits = next(own, next(iter(groups)))["weights"]["num_bits"]
    if bits == 4:
        return "experts of 4 bits run on GPUs, and on x86 CPUs with AMX"
    return "experts of 8 bits run on GPUs; for int8 inputs it wants weights that transformers cannot merge"


PORTABLE = Portable()
