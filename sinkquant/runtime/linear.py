"""The linear layer of a quantized model: packed weights, inputs rounded to their grid, an optional input rotation."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sinkquant.quantization.activations import token_ranges
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme
from sinkquant.quantization.weights import QuantizedWeight
from sinkquant.runtime import packing
from sinkquant.transforms.hadamard import fast_hadamard


class QuantizedLinear(nn.Module):
    """y = Q(x·H − m)·Wᵀ + b with W stored as integer codes (or in float where only the input changes).

    Tensors are buffers under the names of compressed-tensors; a float weight and a bias stay parameters. With a mean m
    the bias holds m·Wᵀ of the float weight, exactly, and is a float32 buffer.
    """

    bias: Tensor | None
    input_offset: Tensor  # (in,), only with a centered input

    def __init__(self, in_features: int, out_features: int, scheme: LinearScheme, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme
        if scheme.weight is None:
            self.weight = nn.Parameter(torch.empty(out_features, in_features), requires_grad=False)
        else:
            for name, tensor in packing.empty(scheme.weight, out_features, in_features).items():
                self.register_buffer(name, tensor)
        if scheme.activation is not None and scheme.activation.mode == "static":
            self.register_buffer("input_scale", torch.empty(1))
            if not scheme.activation.symmetric:
                self.register_buffer("input_zero_point", torch.empty(1, dtype=torch.int8))
        if scheme.center:
            self.register_buffer("input_offset", torch.empty(in_features))
            self.register_buffer("bias", torch.empty(out_features))
        else:
            self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    @classmethod
    def from_linear(
        cls,
        module: nn.Linear,
        scheme: LinearScheme,
        weight: QuantizedWeight | None,
        input_range: tuple[Tensor, Tensor] | None = None,
        input_offset: Tensor | None = None,
    ) -> QuantizedLinear:
        """Replace `module`; `input_range` is (scale, zero) of static activations. A float weight is shared.

        `input_offset` (in,) is the mean of the (rotated) inputs where the scheme centers them.
        """
        with torch.device("meta"):
            made = cls(module.in_features, module.out_features, scheme, bias=module.bias is not None)
        if scheme.weight is None:
            made.weight = nn.Parameter(module.weight.detach(), requires_grad=False)
        else:
            assert weight is not None
            for name, tensor in packing.pack(weight, scheme.weight).items():
                made.register_buffer(name, tensor)
        if scheme.activation is not None and scheme.activation.mode == "static":
            assert input_range is not None
            made.input_scale = (
                input_range[0].detach().float().reshape(1).clone()
            )  # linears of one site must not share storage on disk
            if not scheme.activation.symmetric:
                made.input_zero_point = input_range[1].detach().to(torch.int8).reshape(1).clone()
        if scheme.center:
            assert input_offset is not None
            made.input_offset = input_offset.detach().float().clone()  # not shared on disk either
            shift = module.weight.detach().double() @ made.input_offset.double()
            made.bias = (shift if module.bias is None else module.bias.detach().double() + shift).float()
        elif module.bias is not None:
            made.bias = nn.Parameter(module.bias.detach(), requires_grad=False)
        return made.requires_grad_(False)

    def quantize_input(self, x: Tensor) -> Tensor:
        """The input as the integer kernel would see it, in float; any shape (…, in)."""
        scheme = self.scheme.activation
        if scheme is None:
            return x
        if scheme.mode == "dynamic":
            return fake_quantize(x, *token_ranges(x, scheme), scheme.grid)
        scale, zero = self._buffers["input_scale"], self._buffers.get("input_zero_point")
        assert scale is not None
        return fake_quantize(x, scale.to(x.dtype), None if zero is None else zero.to(x.dtype), scheme.grid)

    def dequantized_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) that the codes stand for."""
        if self.scheme.weight is None:
            return self.weight.to(dtype)
        names = ("weight", "weight_packed", "weight_scale", "weight_zero_point")
        stored = {name: self._buffers[name] for name in names if self._buffers.get(name) is not None}
        codes = packing.unpack(stored, self.scheme.weight, self.out_features, self.in_features)  # type: ignore[arg-type]
        return codes.dequantized().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        if self.scheme.rotate:
            x = fast_hadamard(x)
        if self.scheme.center:
            x = x - self.input_offset.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return linear(self.quantize_input(x), self.dequantized_weight(x.dtype), bias)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        weight, activation = self.scheme.weight, self.scheme.activation
        parts = [f"in_features={self.in_features}, out_features={self.out_features}"]
        parts.append(f"weight={weight.bits} bits" if weight else "weight=float")
        parts.append(f"input={activation.bits} bits {activation.mode}" if activation else "input=float")
        return ", ".join(
            parts
            + (["rotated input"] if self.scheme.rotate else [])
            + (["centered input"] if self.scheme.center else [])
        )


def float_activation(scheme: LinearScheme) -> LinearScheme:
    """The same scheme with its inputs left in float (the net for sites that no static range fits)."""
    return replace(scheme, activation=None)


def dynamic_activation(scheme: LinearScheme) -> LinearScheme:
    """The same scheme with one range a token."""
    assert scheme.activation is not None
    return replace(scheme, activation=ActivationScheme(scheme.activation.bits, "dynamic", symmetric=True))
