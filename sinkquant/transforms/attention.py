"""The attention of a model that is being transformed: what its scheme and the prefix do to it, without quantization."""

from __future__ import annotations

from torch import nn

from sinkquant.models.roles import Roles
from sinkquant.quantization.scheme import KVScheme
from sinkquant.runtime.kv import install, scheme_of
from sinkquant.runtime.positions import install_positions
from sinkquant.transforms.prefix import holders, prefix_states


def install_exact(
    model: nn.Module, roles: Roles, scheme: KVScheme, prefix: tuple[int, ...], *, rotate: bool = False
) -> None:
    """R3, with `rotate`, and the prefix, computed from the weights as they are now.

    `scheme` is what the attention will have in the end. The model has to run through our attention function.
    """
    for attention in (attention for block in roles.blocks for attention in block.attentions):
        module = model.get_submodule(attention.module)
        module._buffers.pop("sink_key", None)
        module._buffers.pop("sink_value", None)
        install(module, _exact(scheme_of(scheme, attention), module, rotate), None, None)
    if not prefix:
        return
    for module, (key, value) in zip(holders(model, roles), prefix_states(model, roles, prefix), strict=True):
        install(module, _exact(scheme, module, rotate), key, value)
    if roles.counts and (roles.positions is None or roles.positions.counted):
        install_positions(model)


def _exact(scheme: KVScheme, module: nn.Module, rotate: bool) -> KVScheme:
    """The scheme without its quantization, and without transforms that the module does not have yet."""
    return KVScheme(rotate=rotate and scheme.rotate, balance=scheme.balance and hasattr(module, "key_transform"))
