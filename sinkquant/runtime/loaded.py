"""Whether what a checkpoint stores for quantized modules has arrived in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor, nn

from sinkquant.errors import SinkquantError
from sinkquant.models.attention import TAPS
from sinkquant.models.finite import refuse_not_finite
from sinkquant.runtime.codes import CodedModule
from sinkquant.runtime.kv import BALANCE

PREFIX = ("sink_key", "sink_value")
INTEGERS = ("weight", "weight_packed", "weight_shape", "weight_zero_point", "input_zero_point", "spike_index")
REMEDY = "copy the checkpoint again, or quantize the model again"


def stored_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Every buffer that a checkpoint stores beyond the float model: name, tensor, whether it holds integers."""
    for path, module in model.named_modules():
        coded = isinstance(module, CodedModule)
        if not coded and not hasattr(module, TAPS):
            continue
        for name, tensor in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set and (coded or name in (*PREFIX, *BALANCE)):
                yield f"{path}.{name}", tensor, coded and name in INTEGERS


def set_filling(model: nn.Module, filling: bool, held: Collection[str] = ()) -> None:
    """Whether a loader is at work on the quantized modules of `model`, apart from those `held` for later."""
    for name, module in model.named_modules():
        if isinstance(module, CodedModule) and name not in held:
            module.filling = filling


def check_stored(model: nn.Module, held: Collection[str] = ()) -> None:
    """Raise SinkquantError for a stored tensor of another kind, or with NaN or infinity; those on disk are passed by.

    `held`: modules that are filled in later.
    """
    for name, tensor, integers in stored_tensors(model):
        if name.rpartition(".")[0] in held:
            continue
        if tensor.is_floating_point() == integers:
            kind = "whole numbers" if integers else "real numbers"
            raise SinkquantError(f"{name} is stored as {tensor.dtype}, not as {kind}: {REMEDY}.")
        refuse_not_finite(name, tensor, REMEDY)


def check_arrived(model: nn.Module, held: Collection[str] = ()) -> None:
    """Raise SinkquantError where transformers, which marks what it loads, found no tensor for a module of ours.

    `held`: modules that are filled in later.
    """
    for name, tensor, _ in stored_tensors(model):
        if name.rpartition(".")[0] not in held and not getattr(tensor, "_is_hf_initialized", False):
            raise SinkquantError(f"the checkpoint lacks {name}: {REMEDY}.")
