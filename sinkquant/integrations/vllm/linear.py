"""Linear layers of a sink-aware checkpoint: vLLM's own int8 kernels where they compute our formula, else the formula.

The formula: y = Q(r·H − m)·Wᵀ + u·Uᵀ + b, with W dequantized once when it is loaded (`runtime/linear.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from vllm.logger import init_logger
from vllm.model_executor.kernels.linear import init_int8_linear_kernel
from vllm.model_executor.layers.linear import LinearMethodBase
from vllm.model_executor.utils import set_weight_attrs

from sinkquant.errors import SinkquantError
from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.integrations.vllm.probe import SAFE, saturates
from sinkquant.quantization.activations import token_ranges
from sinkquant.quantization.grid import fake_quantize
from sinkquant.quantization.scheme import LinearScheme
from sinkquant.quantization.weights import QuantizedWeight
from sinkquant.runtime import packing
from sinkquant.runtime.routing import routing_limit
from sinkquant.runtime.spikes import without_spikes

logger = init_logger(__name__)


def suits_kernel(scheme: LinearScheme) -> bool:
    """8-bit symmetric inputs and one weight scale a channel; codes below 8 bits are int8 codes as well."""
    weight, inputs = scheme.weight, scheme.activation
    if weight is None or inputs is None or weight.group_size is not None:
        return False
    return inputs.bits == 8 and inputs.symmetric and inputs.clip == 1.0


class ServedLinear(LinearMethodBase):
    """One linear, or several of one site that vLLM fuses; `kernel` is set once the weights are loaded."""

    kernel: Any = None

    def __init__(self, scheme: LinearScheme) -> None:
        if scheme.weight is not None and not scheme.weight.symmetric:
            raise SinkquantError("asymmetric weights are not served in vLLM: quantize with weights.symmetric=true.")
        self.scheme = scheme

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **extra: Any,
    ) -> None:
        """The checkpoint's tensors under their names. What a site has once, fused layers load more than once."""
        if input_size != input_size_per_partition or output_size != sum(output_partition_sizes):
            raise SinkquantError("sink-aware checkpoints are not split over devices: use --tensor-parallel-size 1.")
        layer.logical_widths, layer.row_dtype = output_partition_sizes, params_dtype
        for name, tensor in self._rows(output_size, input_size, params_dtype).items():
            add_parameter(
                layer, name, tensor, {"output_dim": 0, **({"input_dim": 1} if tensor.dim() > 1 else {}), **extra}
            )
        for name, tensor in self._shared(input_size).items():
            add_parameter(layer, name, tensor, {"ignore_warning": True, **extra})

    def _rows(self, rows: int, width: int, dtype: torch.dtype) -> dict[str, Tensor]:
        if self.scheme.weight is None:
            tensors = {"weight": torch.empty(rows, width, dtype=dtype)}
        else:
            tensors = packing.empty(self.scheme.weight, rows, width)
            tensors.pop("weight_shape", None)
            tensors["weight_scale"] = tensors["weight_scale"].float()
        if self.scheme.spikes:
            tensors["spike_weight"] = torch.empty(rows, self.scheme.spikes, dtype=dtype)
        return tensors | ({"centered_bias": torch.empty(rows, dtype=torch.float32)} if self.scheme.center else {})

    def _shared(self, width: int) -> dict[str, Tensor]:
        tensors = {"spike_index": torch.empty(self.scheme.spikes, dtype=torch.int32)} if self.scheme.spikes else {}
        inputs = self.scheme.activation
        if inputs is not None and inputs.mode == "static":
            tensors["input_scale"] = torch.empty(1, dtype=torch.float32)
            if not inputs.symmetric:
                tensors["input_zero_point"] = torch.empty(1, dtype=torch.int8)
        return tensors | ({"input_offset": torch.empty(width, dtype=torch.float32)} if self.scheme.center else {})

    def process_weights_after_loading(self, layer: Any) -> None:
        """Give the codes to a kernel, or dequantize them."""
        inputs = self.scheme.activation
        if inputs is not None and inputs.route is not None:
            zero = getattr(layer, "input_zero_point", None)
            layer.limit = routing_limit(layer.input_scale.data, zero, inputs.grid, inputs.route)
        if self.scheme.weight is None:
            return
        stored = [n for n in ("weight", "weight_packed", "weight_scale") if hasattr(layer, n)]
        found = {n: getattr(layer, n).data for n in stored}
        codes = packing.unpack(found, self.scheme.weight, sum(layer.logical_widths), layer.input_size_per_partition)
        for name in stored:
            delattr(layer, name)
        if suits_kernel(self.scheme):
            if int(codes.codes.abs().max()) <= SAFE or not saturates():
                self._use_kernel(layer, codes)
                return
            logger.warning_once(
                "This CPU's int8 kernel overflows on full-range weights, so linears compute in float; "
                "quantize with weights.limit=%d for integer speed.",
                SAFE,
            )
        layer.weight = nn.Parameter(codes.dequantized().to(layer.row_dtype), requires_grad=False)

    def _use_kernel(self, layer: Any, codes: QuantizedWeight) -> None:
        inputs = self.scheme.activation
        assert inputs is not None
        static = inputs.mode == "static"
        layer.routed_codes = codes if inputs.route is not None else None  # the kernel keeps its own, in its own order
        layer.weight = nn.Parameter(codes.codes.contiguous(), requires_grad=False)
        layer.weight_scale = nn.Parameter(codes.scale.float().contiguous(), requires_grad=False)
        for name in ("input_zero_point", "azp_adj", *(() if static else ("input_scale",))):
            layer.register_parameter(name, None)
        self.kernel = init_int8_linear_kernel(
            is_channelwise=True, is_static_input_scheme=static, input_symmetric=True, module_name=type(self).__name__
        )
        self.kernel.process_weights_after_loading(layer)

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(…, in) -> (…, out)."""
        if not self.scheme.spikes:
            return self._rounded(layer, x, bias)
        y = self._rounded(layer, without_spikes(x, layer.spike_index), bias)
        return y + linear(x.index_select(-1, layer.spike_index), layer.spike_weight)

    def _rounded(self, layer: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.scheme.rotate:
            x = fast_hadamard(x)
        if self.scheme.center:
            x, bias = x - layer.input_offset.to(x.dtype), layer.centered_bias.to(x.dtype)
        if self.kernel is None:
            return linear(quantized_input(x, self.scheme, layer), layer.weight, bias)
        y = self.kernel.apply_weights(layer, x, bias)
        if layer.routed_codes is not None and (rows := x.abs().amax(-1) > layer.limit).any():
            y[rows] = linear(x[rows], layer.routed_codes.dequantized().to(x.dtype), bias)
        return y


def quantized_input(x: Tensor, scheme: LinearScheme, layer: Any) -> Tensor:
    """The prepared input on its grid, in float; static ranges are the layer's `input_scale`, `input_zero_point`."""
    inputs = scheme.activation
    if inputs is None:
        return x
    if inputs.mode == "dynamic":
        return fake_quantize(x, *token_ranges(x, inputs), inputs.grid)
    zero = getattr(layer, "input_zero_point", None)
    rounded = fake_quantize(x, layer.input_scale.to(x.dtype), None if zero is None else zero.to(x.dtype), inputs.grid)
    return rounded if inputs.route is None else torch.where((x.abs().amax(-1) > layer.limit)[..., None], x, rounded)


def add_parameter(layer: nn.Module, name: str, tensor: Tensor, attributes: dict[str, Any]) -> None:
    """Register `tensor` with the attributes that vLLM's loaders read."""
    parameter = nn.Parameter(tensor, requires_grad=False)
    set_weight_attrs(parameter, attributes)
    layer.register_parameter(name, parameter)
