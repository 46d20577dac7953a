"""The `quantization_config` of a portable checkpoint, in the words of compressed-tensors."""

from __future__ import annotations

from typing import Any

from compressed_tensors import __version__
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

from sinkquant.quantization.scheme import ActivationScheme, LinearScheme, WeightScheme


def _weights(scheme: WeightScheme) -> QuantizationArgs:
    strategy = "channel" if scheme.group_size is None else "group"
    return QuantizationArgs(
        num_bits=scheme.bits, symmetric=scheme.symmetric, strategy=strategy, group_size=scheme.group_size
    )


def _inputs(scheme: ActivationScheme) -> QuantizationArgs:
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
            weights=_weights(scheme.weight),
            input_activations=_inputs(scheme.activation) if scheme.activation else None,
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
