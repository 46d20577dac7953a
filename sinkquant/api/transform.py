"""Transform a model in memory: fused rotations, online rotations, prefix. Exact, and checked on every run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sinkquant.api.plan import Plan
from sinkquant.api.smooth import smooth
from sinkquant.errors import SinkquantError
from sinkquant.models.attention import NAME, register
from sinkquant.models.roles import Roles
from sinkquant.quantization.scheme import KVScheme, LinearScheme
from sinkquant.runtime.kv import install
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.runtime.positions import install_positions
from sinkquant.transforms.apply import apply_fused
from sinkquant.transforms.hadamard import fast_hadamard
from sinkquant.transforms.prefix import prefix_states

TOLERANCE = 1e-4  # of the logits' scale, float32


def check_batch(ids: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Two short rows of real text, the second padded on the left: (ids, mask), each (2, 48)."""
    rows = ids[:1, :96].reshape(2, -1).clone() if ids.shape[1] >= 96 else ids[:1, :].repeat(2, 1)
    mask = torch.ones_like(rows)
    rows[1, :5], mask[1, :5] = pad, 0
    return rows, mask


def logits_of(model: nn.Module, ids: Tensor, mask: Tensor, prefix: tuple[int, ...] = ()) -> Tensor:
    """Logits at the real tokens, with `prefix` in context in front of every row's text."""
    outputs = []
    with torch.no_grad():
        for row, real in zip(ids, mask, strict=True):  # row by row: the reference needs no padding at all
            text = torch.cat([row.new_tensor(prefix), row[real.bool()]])
            outputs.append(model(input_ids=text[None], use_cache=False).logits[0, len(prefix) :].float())
    return torch.cat(outputs)


def padded_logits(model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits at the real tokens of a padded batch."""
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits[mask.bool()].float()


def transform(model: nn.Module, roles: Roles, plan: Plan, ids: Tensor, threshold: float = 64.0) -> float:
    """Apply the plan's transformations; returns the largest difference of the logits, relative to their scale.

    `ids` (N, T) is text for the check and for smoothing, whose moments leave out rows beyond `threshold` × the median.
    The reference is the untouched model with the prefix in context. Raises SinkquantError above 1e-4.
    """
    pad = getattr(model.config, "pad_token_id", None) or 0  # type: ignore[union-attr]
    rows, mask = check_batch(ids, pad)
    before = logits_of(model, rows, mask, plan.prefix)
    apply_fused(model, roles, plan.rotations)
    register()
    model.set_attn_implementation(NAME)  # type: ignore[operator]
    _install_attention(model, roles, plan)
    if plan.rotations.smooth or plan.kv.balance:  # the moments are those of the model with its prefix
        smooth(
            model, roles, ids, threshold, linears=plan.rotations.smooth, keys=plan.kv.balance,
            center=plan.recipe.activations.center, seed=plan.rotations.seed,
        )  # fmt: skip
    for name, scheme in plan.linears.items():
        if scheme.rotate:
            _rotate_online(model, name)
    _install_attention(model, roles, plan)
    after = padded_logits(model, rows, mask)
    error = float((after - before).abs().max() / before.abs().max())
    if not error <= TOLERANCE:
        raise SinkquantError(
            f"the transformed model differs from the original by {error:.1e} of the logits' scale (limit {TOLERANCE}); "
            "leave rotations out one by one (--set transforms.r4=false …) and report the model."
        )
    return error


def _install_attention(model: nn.Module, roles: Roles, plan: Plan) -> None:
    """R3 and the prefix, computed from the weights as they are now."""
    modules = [model.get_submodule(b.attention.module) if b.attention else None for b in roles.blocks]
    for module in modules:
        if module is not None:
            scheme = _exact(plan.kv, module)
            module._buffers.pop("sink_key", None)
            module._buffers.pop("sink_value", None)
            install(module, scheme, None, None)
    if not plan.prefix:
        return
    for module, (key, value) in zip(modules, prefix_states(model, roles, plan.prefix), strict=True):
        assert module is not None
        install(module, _exact(plan.kv, module), key, value)
    install_positions(model)


def _exact(scheme: KVScheme, module: nn.Module) -> KVScheme:
    """The scheme without its quantization, and without transforms that the module does not have yet."""
    return KVScheme(rotate=scheme.rotate, balance=scheme.balance and hasattr(module, "key_transform"))


def _rotate_online(model: nn.Module, name: str) -> None:
    """R4 and its like: the rotation of the input stays online, its inverse goes into the weight."""
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(fast_hadamard(linear.weight.double()))
    replace_module(model, name, QuantizedLinear.from_linear(linear, LinearScheme(None, None, rotate=True), None))
