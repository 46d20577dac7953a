"""Turn a plain model into a quantized one, module by module: for a loader (empty tensors) or in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from sinkquant.errors import SinkquantError
from sinkquant.models.attention import insist, register
from sinkquant.models.ends import head_of
from sinkquant.models.experts import part_experts
from sinkquant.models.media import media_rows, watch_media
from sinkquant.models.transposed import as_linear
from sinkquant.runtime.cached import install_cached
from sinkquant.runtime.config import SinkquantQuantization
from sinkquant.runtime.embedding import QuantizedEmbedding
from sinkquant.runtime.kv import balance_shapes, install, prefix_shapes
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.positions import install_positions


class OtherNames(SinkquantError):
    """Modules have other names in the checkpoint than in the model."""


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` at path `name`; a quantized linear learns from the model which rows are media."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
    if isinstance(module, QuantizedLinear):
        module.media = media_rows(model)


def flag_final_norm(model: nn.Module, name: str | None) -> None:
    """Give the final norm's weight a leading axis of one.

    The computation is the same, but a loader that does not know the checkpoint stops at the shape instead of filling
    its linears with noise.
    """
    if name is None:
        return
    norm = model.get_submodule(name)
    if type(norm) is nn.LayerNorm:
        made = FlaggedLayerNorm(norm.normalized_shape, norm.eps, bias=False, device="meta")
        made.weight, made.bias = norm.weight, norm.bias
        replace_module(model, name, made)
        norm = made
    norm.weight = nn.Parameter(norm.weight.detach().reshape(1, -1), requires_grad=False)  # type: ignore[union-attr, operator]


class FlaggedLayerNorm(nn.LayerNorm):
    """A layer norm whose weight has that leading axis, (1, width): torch's own does not take it."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        return layer_norm(x, self.normalized_shape, self.weight.reshape(-1), self.bias, self.eps)


class Apart(nn.Module):
    """Stands for a linear that is no part of the model while the rest loads."""

    # Models initialize what they know by these names, which costs nothing without memory (torch warns of no elements).
    weight, bias = torch.empty(1, 1, device="meta"), torch.empty(1, device="meta")

    def __init__(self, linear: QuantizedLinear) -> None:
        super().__init__()
        self.held = (linear,)  # in a tuple it is no child


def skeleton(model: nn.Module, config: SinkquantQuantization) -> None:
    """Prepare an empty model (on the meta device) for the tensors of a sink-aware checkpoint."""
    register()
    dtype, head = next(model.parameters()).dtype, head_of(model)
    part_experts(model, config.experts)
    if config.media is not None:
        _at(model, config.media.stack)
        watch_media(model, config.media)
    for name, scheme in config.linears.items():
        linear = as_linear(_at(model, name))
        assert isinstance(linear, nn.Linear)
        with torch.device("meta"):
            made = QuantizedLinear(
                linear.in_features, linear.out_features, scheme, bias=linear.bias is not None, dtype=dtype
            )
        replace_module(model, name, Apart(made) if name in config.apart and linear is not head else made)
    for name in config.embeddings:
        replace_module(model, name, QuantizedEmbedding.like(model.get_submodule(name), dtype))
    for name, kv in config.attentions.items():
        attention, sizes = model.get_submodule(name), config.kv_shapes[name]
        install(attention, kv, None, None)
        length = 0 if name in config.bare else config.prefix_length
        shapes = prefix_shapes(*sizes, length) | (balance_shapes(*sizes) if kv.balance else {})
        for buffer, shape in shapes.items():
            attention.register_buffer(buffer, torch.empty(shape, device="meta"))
        if shapes or kv.bits < 16 or kv.rotate:
            insist(attention)
    for name, (kv, cached) in config.cached.items():
        install_cached(_at(model, name), kv, cached, model.config)
    flag_final_norm(model, config.final_norm)
    if config.prefix_length and config.positions != "uncounted":
        install_positions(model)


def _at(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise OtherNames(
            f"the checkpoint quantizes {name}, which this version of the model does not have; "
            "load it with the transformers version stated in its manifest."
        ) from error
