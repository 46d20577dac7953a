"""Which schemes the products of codes compute."""

from __future__ import annotations

from sinkquant.quantization.scheme import LinearScheme, WeightScheme


def scales_by_channel(weight: WeightScheme, in_features: int) -> bool:
    """Whether the weight has one scale a channel and no zero point."""
    return weight.symmetric and weight.group_size in (None, in_features)


def is_integer_product(scheme: LinearScheme, in_features: int) -> bool:
    """Whether inputs and weights have at most 8 bits, and weights one scale a channel without a zero point."""
    weight, inputs = scheme.weight, scheme.activation
    if weight is None or inputs is None or inputs.bits > 8:
        return False
    return scales_by_channel(weight, in_features)
