"""Which scheme a layer of vLLM has, several linears fused into one included. Knows nothing of vLLM."""

from __future__ import annotations

from collections.abc import Mapping

from sinkquant.errors import SinkquantError
from sinkquant.quantization.scheme import LinearScheme


def scheme_of(name: str, linears: Mapping[str, LinearScheme], fused: Mapping[str, list[str]]) -> LinearScheme | None:
    """The scheme of the layer `name`, None if it is not quantized; `fused`: leaf name -> names of its parts."""
    parent, _, leaf = name.rpartition(".")
    parts = [f"{parent}.{part}" if parent else part for part in fused.get(leaf, [leaf])]
    schemes = {linears.get(part) for part in parts}
    if len(schemes) > 1:
        raise SinkquantError(f"the parts of {name} have different schemes, which vLLM cannot compute as one layer.")
    return schemes.pop()
