"""The linear layer of a quantized model: packed weights, inputs rounded to their grid, an optional input rotation."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sinkquant.errors import SinkquantError
from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.models.media import MediaRows
from sinkquant.quantization.activations import token_ranges
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.scheme import ActivationScheme, LinearScheme
from sinkquant.quantization.weights import QuantizedWeight
from sinkquant.runtime import packing
from sinkquant.runtime.codes import CodedModule
from sinkquant.runtime.routing import outlier_rows, routing_limit
from sinkquant.runtime.shared import Ready, SharedInputs
from sinkquant.runtime.spikes import split_weight, spread_columns, without_spikes

if TYPE_CHECKING:
    from sinkquant.runtime.kernels.base import Kernel
    from sinkquant.runtime.kernels.selection import Selection


class QuantizedLinear(CodedModule):
    """y = Q(r·H − m)·Wᵀ + u·Uᵀ + b with W stored as integer codes (or in float where only the input changes).

    u are the spike units, the few channels of the input that would ruin the range of all others, r is the input with
    zeros in their place; U are their columns of the float weight, and W is what the weight is without them.

    Tensors are buffers under the names of compressed-tensors; a float weight, U and a bias stay parameters. With a mean
    m the bias holds m·Wᵀ of the float weight, exactly, and is a float32 buffer.

    The float computation on rounded inputs defines the layer. A `choice` lets integer kernels take its place.
    """

    choice: Selection | None = None
    limit: float | None = None  # with a choice: up to that magnitude no row is routed
    input_grid: Hashable = None  # with a choice: linears with an equal one make the same of an input
    shared: SharedInputs | None = None  # with a choice: where such linears of one module leave it for each other
    media: MediaRows | None = None  # of the model: which rows have the second static range
    kernel_codes: Tensor  # what a kernel put in the place of the stored codes
    kernel_ranges: Tensor
    weight_scale: Tensor
    weight_packed: Tensor

    bias: Tensor | None
    input_offset: Tensor  # (in,), only with a centered input
    spike_index: Tensor  # (k,) int32, only with spike units
    spike_weight: Tensor  # (out, k)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        scheme: LinearScheme,
        *,
        bias: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype`: of what stays in float, and of the weight that the model sees."""
        super().__init__()
        self.in_features, self.out_features, self.scheme, self.dtype = in_features, out_features, scheme, dtype
        if scheme.weight is None:
            weight = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype), requires_grad=False)
            self.register_parameter("weight", weight)
        else:
            for name, tensor in packing.empty(scheme.weight, out_features, in_features).items():
                self.register_buffer(name, tensor)
        if scheme.activation is not None and scheme.activation.mode == "static":
            self.register_buffer("input_scale", torch.empty(scheme.activation.ranges, dtype=torch.float32))
            if not scheme.activation.symmetric:
                self.register_buffer("input_zero_point", torch.empty(scheme.activation.ranges, dtype=torch.int8))
        if scheme.center:
            self.register_buffer("input_offset", torch.empty(in_features, dtype=torch.float32))
            self.register_buffer("bias", torch.empty(out_features, dtype=torch.float32))
        else:
            self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype), requires_grad=False) if bias else None
        if scheme.spikes:
            self.register_buffer("spike_index", torch.empty(scheme.spikes, dtype=torch.int32))
            columns = torch.empty(out_features, scheme.spikes, dtype=dtype)
            self.spike_weight = nn.Parameter(columns, requires_grad=False)

    @classmethod
    def from_linear(
        cls,
        module: nn.Linear,
        scheme: LinearScheme,
        weight: QuantizedWeight | None,
        input_range: tuple[Tensor, Tensor] | None = None,
        input_offset: Tensor | None = None,
        spikes: Tensor | None = None,
    ) -> QuantizedLinear:
        """Replace `module`; `input_range` is (scale, zero) of static activations, each (ranges,). A float weight is
        shared.

        `input_offset` (in,) is the mean of the (rotated) inputs where the scheme centers them, `spikes` (k,) are the
        channels in float where it has some; `weight` and `input_offset` are then of what is left without them.
        """
        with torch.device("meta"):
            sizes, dtype = (module.in_features, module.out_features), module.weight.dtype
            made = cls(*sizes, scheme, bias=module.bias is not None, dtype=dtype)
        if scheme.weight is None:
            made.register_parameter("weight", nn.Parameter(module.weight.detach(), requires_grad=False))
        else:
            assert weight is not None
            for name, tensor in packing.pack(weight, scheme.weight).items():
                setattr(made, name, tensor)
        if scheme.activation is not None and scheme.activation.mode == "static":
            assert input_range is not None
            made.input_scale = (
                input_range[0].detach().float().reshape(scheme.activation.ranges).clone()
            )  # linears of one site must not share storage on disk
            if not scheme.activation.symmetric:
                made.input_zero_point = input_range[1].detach().to(torch.int8).flatten().clone()
        rest = module.weight.detach()
        if scheme.spikes:
            assert spikes is not None
            rest, columns = split_weight(rest, spikes, scheme.rotate)
            made.spike_index = spikes.to(torch.int32, copy=True)
            made.spike_weight = nn.Parameter(columns.contiguous())
        if scheme.center:
            assert input_offset is not None
            made.input_offset = input_offset.detach().float().clone()  # not shared on disk either
            shift = rest.double() @ made.input_offset.double()
            made.bias = (shift if module.bias is None else module.bias.detach().double() + shift).float()
        elif module.bias is not None:
            made.bias = nn.Parameter(module.bias.detach(), requires_grad=False)
        return made.requires_grad_(False)

    def blank(self) -> QuantizedLinear:
        """One of the same kind without memory: the names, shapes and types of what is stored."""
        bias = "bias" in self._parameters and self.bias is not None
        with torch.device("meta"):
            return QuantizedLinear(self.in_features, self.out_features, self.scheme, bias=bias, dtype=self.dtype)

    @property
    def routes(self) -> bool:
        """Whether rows beyond the static range stay in float."""
        return self.scheme.activation is not None and self.scheme.activation.route is not None

    def prepare_input(self, x: Tensor) -> Tensor:
        """The input (…, in) without its spike units, rotated and centered, before it is rounded."""
        if self.scheme.spikes:
            x = without_spikes(x, self.spike_index)
        if self.scheme.rotate:
            x = fast_hadamard(x)
        return x - self.input_offset.to(x.dtype) if self.scheme.center else x

    def spikes(self, x: Tensor) -> Tensor | None:
        """The spike units (…, k) of the input (…, in) as it comes, or None where the scheme has none."""
        return x.index_select(-1, self.spike_index) if self.scheme.spikes else None

    def stored_range(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Scale and zero point of static inputs, (1,); (2,) where rows of media have the second."""
        scale, zero = self._buffers["input_scale"], self._buffers.get("input_zero_point")
        assert scale is not None
        return scale.to(dtype), None if zero is None else zero.to(dtype)

    def static_range(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale and zero point of static inputs for the rows of `x` (…, in): (1,), or (…, 1) where they differ."""
        scale, zero = self.stored_range(x.dtype)
        if len(scale) == 1:
            return scale, zero
        if self.media is None:
            raise SinkquantError("a layer with ranges for rows of images does not run without its model.")
        kinds = self.media.kinds(x)
        return scale[kinds], None if zero is None else zero[kinds]

    def routed_rows(self, x: Tensor) -> Tensor:
        """(…) bool: which rows of the prepared input (…, in) take the float path; the scheme must route."""
        scheme = self.scheme.activation
        assert scheme is not None and scheme.route is not None
        return outlier_rows(x, *self.static_range(x), scheme.grid, scheme.route)

    def quantize_input(self, x: Tensor) -> Tensor:
        """The prepared input as the integer kernel would see it, in float; routed rows as they are."""
        scheme = self.scheme.activation
        if scheme is None:
            return x
        if scheme.mode == "dynamic":
            return fake_quantize(x, *token_ranges(x, scheme), scheme.grid)
        rounded = fake_quantize(x, *self.static_range(x), scheme.grid)
        inside = self.limit is not None and not torch.compiler.is_compiling() and _largest(x) <= self.limit
        if inside or not self.routes:
            return rounded
        return torch.where(self.routed_rows(x)[..., None], x, rounded)

    def quantized_weight(self) -> QuantizedWeight:
        """Codes (out, in) with scales and zero points, those of no spike units; the scheme must quantize the weight."""
        assert self.scheme.weight is not None
        names = ("weight_packed", "weight_scale", "weight_zero_point")
        stored = {name: tensor for name in names if (tensor := self._buffers.get(name)) is not None}
        if (codes := self.int8_codes()) is not None:
            stored["weight"] = codes
        moved = None if self.choice is None else self.choice.codes(self)
        return packing.unpack(stored, self.scheme.weight, self.out_features, self.in_features, moved)

    def weight_size(self) -> tuple[int, int]:
        """(out, in)."""
        return self.out_features, self.in_features

    def dequantized_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) that the codes stand for, with the columns of spike units."""
        if self.scheme.weight is None:
            return self.weight.to(dtype)
        weight = self.quantized_weight().dequantized()
        if self.scheme.spikes:
            weight = weight + spread_columns(self.spike_weight, self.spike_index, self.in_features, self.scheme.rotate)
        return weight.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        if self.choice is None or (x.requires_grad and torch.is_grad_enabled()):  # kernels pass no gradient on
            return self._add_spikes(self._float(self.quantize_input(self.prepare_input(x))), self.spikes(x))
        kernel = self.choice.at(x.numel() // self.in_features)
        if self.shared is None:
            ready = self._ready(kernel, x)
        else:
            ready = self.shared.take(x, self, (kernel, self.input_grid), lambda x: self._ready(kernel, x))
        if kernel is None:
            return self._add_spikes(self._float(ready.operand), ready.spikes)
        y = kernel(self, ready.operand).to(x.dtype)
        if ready.routed is not None:
            where, rows = ready.routed
            y[where] = self._float(rows)
        return self._add_spikes(y.reshape(*x.shape[:-1], self.out_features), ready.spikes)

    def _ready(self, kernel: Kernel | None, x: Tensor) -> Ready:
        spikes = self.spikes(x)
        if kernel is None:
            return Ready(self.quantize_input(self.prepare_input(x)), spikes)
        rows = self.prepare_input(x).reshape(-1, self.in_features).contiguous()
        if self.limit is None or _largest(rows) <= self.limit:
            return Ready(kernel.operand(self, rows), spikes)
        where = self.routed_rows(rows)
        return Ready(kernel.operand(self, rows), spikes, (where, rows[where]))

    def _add_spikes(self, y: Tensor, spikes: Tensor | None) -> Tensor:
        """The output (…, out) with the share of the spike units (…, k)."""
        return y if spikes is None else y + linear(spikes, self.spike_weight.to(y.dtype))

    def use(self, choice: Selection, dtype: torch.dtype) -> None:
        """Compute with the kernels of `choice` from now on; one may move the codes. `dtype` is that of the inputs."""
        choice.prepare(self, dtype)
        self.choice = choice
        scheme = self.scheme.activation
        static = self.stored_range(torch.float32) if scheme is not None and scheme.mode == "static" else ()
        spikes = tuple(self.spike_index.tolist()) if self.scheme.spikes else ()
        ranges = (None if part is None else tuple(part.tolist()) for part in static)
        self.input_grid = (scheme, self.scheme.rotate, spikes, *ranges)
        if scheme is not None and scheme.route is not None:
            self.limit = float(routing_limit(*self.stored_range(dtype), scheme.grid, scheme.route).min())

    def _float(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        # By rows: of a slice of sequences torch would multiply each by a copy of the weight of its own.
        rows = x.reshape(-1, self.in_features)
        if self._scales_are_fitted():
            # The scales of channels can as well multiply the outputs: no gradient as large as the weight is needed.
            weight = self.quantized_weight()
            y = linear(rows, weight.integers().to(x.dtype)) * weight.scale.T.to(x.dtype)
            y = y if bias is None else y + bias
        else:
            coded = self.scheme.weight is not None
            dense = self.quantized_weight().dequantized() if coded else self.weight
            y = linear(rows, dense.to(x.dtype), bias)
        return y.reshape(*x.shape[:-1], self.out_features)

    def _scales_are_fitted(self) -> bool:
        """Whether tuning asks for the gradient of scales that are one a channel."""
        return self.scheme.weight is not None and self.weight_scale.requires_grad and self.weight_scale.shape[1] == 1

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """What is stored never depends on the kernel."""
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[no-untyped-call]
        if self.choice is not None and self.choice.codes(self) is not None:
            assert self.scheme.weight is not None
            for name, tensor in packing.pack(self.quantized_weight(), self.scheme.weight).items():
                destination.setdefault(prefix + name, tensor)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        weight, activation = self.scheme.weight, self.scheme.activation
        parts = [f"in_features={self.in_features}, out_features={self.out_features}"]
        parts.append(f"weight={weight.bits} bits" if weight else "weight=float")
        parts.append(f"input={activation.bits} bits {activation.mode}" if activation else "input=float")
        return ", ".join(
            parts
            + (["a range for rows of images"] if activation and activation.media else [])
            + (["rotated input"] if self.scheme.rotate else [])
            + (["centered input"] if self.scheme.center else [])
            + ([f"{self.scheme.spikes} spike units in float"] if self.scheme.spikes else [])
        )


def _largest(x: Tensor) -> float:
    """Largest magnitude in `x`, read once and without a copy."""
    if x.numel() == 0:
        return 0.0
    low, high = x.aminmax()
    return float(torch.maximum(-low, high))


def dynamic_activation(scheme: LinearScheme) -> LinearScheme:
    """The same scheme with one range a token."""
    assert scheme.activation is not None
    return replace(scheme, activation=ActivationScheme(scheme.activation.bits, "dynamic", symmetric=True))
