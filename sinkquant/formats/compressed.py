"""The `quantization_config` of a portable checkpoint, in the words of compressed-tensors, from our schemes and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressed_tensors import __version__
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors import safe_open

from sinkquant.errors import SinkquantError
from sinkquant.formats.targets import target_of
from sinkquant.models.source import weight_files
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme, WeightScheme
from sinkquant.runtime.config import SinkquantQuantization
from sinkquant.runtime.modules import OtherNames

Rename = Callable[[Sequence[str]], tuple[dict[str, str], tuple[str, ...]]]


def _weight_args(scheme: WeightScheme) -> QuantizationArgs:
    strategy = "channel" if scheme.group_size is None else "group"
    return QuantizationArgs(
        num_bits=scheme.bits, symmetric=scheme.symmetric, strategy=strategy, group_size=scheme.group_size
    )


def _input_args(scheme: ActivationScheme) -> QuantizationArgs:
    strategy, dynamic = ("token", True) if scheme.mode == "dynamic" else ("tensor", False)
    return QuantizationArgs(num_bits=scheme.bits, symmetric=scheme.symmetric, strategy=strategy, dynamic=dynamic)


def quantization_config(
    linears: Mapping[str, LinearScheme], ignore: Sequence[str], experts: Collection[str] = (), homes: Sequence[str] = ()
) -> dict[str, Any]:
    """One config group a scheme, each with its exact module names and an explicit format (loaders disagree on the
    default); `ignore` lists what stays in float.

    `experts`: those of the linears that are in experts, and have one scheme; `homes`: modules that hold them on disk.
    transformers takes a group with a pattern of experts for that of all.
    """
    schemes: dict[LinearScheme, list[str]] = {}
    for name, scheme in linears.items():
        if name not in experts:
            schemes.setdefault(scheme, []).append(name)
    # A single scheme is written for the class, as other tools do; serving engines match fused layers by it.
    found = {scheme: ["Linear"] if len(schemes) == 1 else targets for scheme, targets in schemes.items()}
    shared = next((linears[name] for name in experts), None)
    if shared is not None and list(found) != [shared]:
        patterns = (rf"re:.*\.{home.rpartition('.')[2]}\.\d+\..*" for home in homes)
        found[shared] = [*found.get(shared, ()), *dict.fromkeys(patterns)]
    groups, formats = {}, []
    for index, (scheme, targets) in enumerate(found.items()):
        assert scheme.weight is not None
        formats.append("pack-quantized" if scheme.weight.packed else "int-quantized")
        group = QuantizationScheme(
            targets=targets,
            weights=_weight_args(scheme.weight),
            input_activations=_input_args(scheme.activation) if scheme.activation else None,
            format=formats[-1],
        )
        groups[f"group_{index}"] = group.model_dump(mode="json", exclude_none=True)
    return {
        "quant_method": "compressed-tensors",
        "config_groups": groups,
        "format": formats[0] if len(set(formats)) == 1 else "mixed-precision",
        "ignore": list(ignore),
        "quantization_status": "compressed",
        "version": __version__,
    }


def own_quantization(
    folder: Path, config: Mapping[str, Any], limit: int | None = None, rename: Rename | None = None
) -> SinkquantQuantization:
    """What our loader needs to build the linears that a portable checkpoint in `folder` holds tensors for.

    `limit`: of the recipe's 8-bit codes, which the format has no word for. `rename`: where experts are stored one by
    one, what gives names in the model by stored ones, and the modules that hold the experts.
    """
    schemes = {
        target: _own_scheme(group, limit) for group in config["config_groups"].values() for target in group["targets"]
    }
    stored = quantized_linears(folder)
    names, experts = rename(stored) if rename is not None else ({}, ())
    linears = {}
    for name in stored:
        own = names.get(name, name)
        scheme = schemes.get(target_of(own, schemes))
        if scheme is None:
            raise OtherNames(
                f"{name} of {folder} has another name in the model, so it cannot stay packed: "
                'load it with execution="reference" and without an offload folder.'
            )
        linears[own] = scheme
    differing = {name: own for name, own in names.items() if name != own}
    return SinkquantQuantization(
        linears, attentions={}, prefix_length=0, kv_shapes={}, experts=experts,
        hub_names=differing if rename is not None else None,
    )  # fmt: skip


def quantized_linears(folder: Path) -> list[str]:
    """Names of the modules with codes and a scale; raises SinkquantError for one without the other."""
    scales, codes = set[str](), set[str]()
    for file in weight_files(folder):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                module, _, leaf = key.rpartition(".")
                if leaf == "weight_scale":
                    scales.add(module)
                elif leaf == "weight_packed" or (leaf == "weight" and tensors.get_slice(key).get_dtype() == "I8"):
                    codes.add(module)
    for module in sorted(scales ^ codes):
        part = "weight_scale" if module in codes else "weight"
        raise SinkquantError(f"{folder} lacks {module}.{part}: copy the checkpoint again.")
    return sorted(scales)


def _own_scheme(group: dict[str, Any], limit: int | None) -> LinearScheme:
    weights, inputs = group["weights"], group.get("input_activations")
    activation = None
    if inputs is not None:
        activation = ActivationScheme(
            inputs["num_bits"], "dynamic" if inputs["dynamic"] else "static", inputs["symmetric"]
        )
    bits, packed = weights["num_bits"], group["format"] == "pack-quantized"
    narrow = limit if bits == 8 and activation is not None else None  # the head may use the whole range
    weight = WeightScheme(bits, weights["symmetric"], weights.get("group_size"), narrow, words=packed and bits == 8)
    return LinearScheme(weight, activation)
