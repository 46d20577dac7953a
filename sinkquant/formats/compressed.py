"""The `quantization_config` of a portable checkpoint, in the words of compressed-tensors, from our schemes and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressed_tensors import __version__
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors import safe_open

from sinkquant.errors import SinkquantError
from sinkquant.models.source import weight_files
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme, WeightScheme
from sinkquant.runtime.config import SinkquantQuantization
from sinkquant.runtime.modules import OtherNames


def _weight_args(scheme: WeightScheme) -> QuantizationArgs:
    strategy = "channel" if scheme.group_size is None else "group"
    return QuantizationArgs(
        num_bits=scheme.bits, symmetric=scheme.symmetric, strategy=strategy, group_size=scheme.group_size
    )


def _input_args(scheme: ActivationScheme) -> QuantizationArgs:
    strategy, dynamic = ("token", True) if scheme.mode == "dynamic" else ("tensor", False)
    return QuantizationArgs(num_bits=scheme.bits, symmetric=scheme.symmetric, strategy=strategy, dynamic=dynamic)


def quantization_config(linears: dict[str, LinearScheme], ignore: tuple[str, ...]) -> dict[str, Any]:
    """One config group a scheme, each with its exact module names and an explicit format (loaders disagree on the
    default); `ignore` lists the linears that stay in float."""
    schemes: dict[LinearScheme, list[str]] = {}
    for name, scheme in linears.items():
        schemes.setdefault(scheme, []).append(name)
    groups, formats = {}, []
    for index, (scheme, targets) in enumerate(schemes.items()):
        assert scheme.weight is not None
        formats.append("pack-quantized" if scheme.weight.packed else "int-quantized")
        # A single scheme is written for the class, as other tools do; serving engines match fused layers by it.
        group = QuantizationScheme(
            targets=["Linear"] if len(schemes) == 1 else targets,
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


def own_quantization(folder: Path, config: dict[str, Any], limit: int | None = None) -> SinkquantQuantization:
    """What our loader needs to build the linears that a portable checkpoint in `folder` holds tensors for.

    `limit`: of the recipe's 8-bit codes, which the format has no word for.
    """
    groups = [(group["targets"], _own_scheme(group, limit)) for group in config["config_groups"].values()]
    linears = {}
    for name in quantized_linears(folder):
        named = [scheme for targets, scheme in groups if name in targets]
        known = named or [scheme for targets, scheme in groups if "Linear" in targets]
        if not known:
            raise OtherNames(
                f"{name} of {folder} has another name in the model, so it cannot stay packed: "
                'load it with execution="reference" and without an offload folder.'
            )
        linears[name] = known[0]
    return SinkquantQuantization(linears, attentions={}, prefix_length=0, kv_shapes={})


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
