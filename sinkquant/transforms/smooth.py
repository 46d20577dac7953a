"""Move range between inputs and weights where it does the least harm, from second moments of both.

Rounding x·Wᵀ on uniform grids costs about E|x|²·‖W‖² (the noise of each side is proportional to its own size and meets
the other's). For x' = x·T, W' = W·T⁻ᵀ that product is smallest, (tr (Σx½ Σw Σx½)½)², where TᵀΣxT = T⁻¹ΣwT⁻ᵀ; with T
diagonal, where d = (Σw_jj / Σx_jj)^¼. The derivation is Cauchy's inequality; the aim that of covariance transforms
(CAT) and, for diagonals, of SmoothQuant (arXiv 2211.10438) with second moments in place of maxima.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sinkquant.models.norm import scale_output
from sinkquant.models.roles import Attention, Norm
from sinkquant.transforms.rotation import Rotation

FLOOR = 1e-5  # of the mean: channels that are never used must not be blown up


def balance(inputs: Tensor, weights: Tensor) -> Tensor:
    """Diagonal transform d (in,) for mean squares of inputs (in,) and column sums of squares of weights (in,).

    Ones where a side is zero altogether, as in blocks that were added to a model or pruned: nothing is to be balanced.
    """
    if not (inputs.mean() > 0 and weights.mean() > 0):
        return torch.ones_like(weights, dtype=torch.float64)
    x = inputs.double() + FLOOR * inputs.double().mean()
    w = weights.double() + FLOOR * weights.double().mean()
    d = (w / x).pow(0.25)
    return d / d.log().mean().exp()


def balance_full(inputs: Tensor, weights: Tensor, seed: int) -> Tensor:
    """Full transform T (n, n) for second moments of inputs and weights (n, n); all channels of x·T vary equally.

    `seed` draws the random Hadamard rotation that T ends with; it is all of T where a side is zero altogether.
    """
    if not (inputs.diagonal().mean() > 0 and weights.diagonal().mean() > 0):
        return Rotation(len(inputs), seed).apply(torch.eye(len(inputs), dtype=torch.float64))
    x, w = (_floored(moment.double()) for moment in (inputs, weights))
    root = _power(x, 0.5)
    middle = root @ w @ root
    values, vectors = torch.linalg.eigh(middle)
    values = values.clamp_min(1e-12 * values.max())
    turned = Rotation(len(x), seed).apply(vectors)  # the eigenvectors, then a Hadamard rotation
    return _power(x, -0.5) @ (vectors * values.pow(0.25)) @ vectors.T @ turned


def _floored(moment: Tensor) -> Tensor:
    return moment + torch.eye(len(moment), dtype=moment.dtype) * FLOOR * moment.diagonal().mean()


def _power(moment: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(moment)
    return (vectors * values.clamp_min(1e-12 * values.max()).pow(exponent)) @ vectors.T


def scale_norm(model: nn.Module, norm: Norm, readers: tuple[str, ...], d: Tensor) -> None:
    """The norm's output ← output·d, its readers' weights ← W / d; which stays exact whatever the norm's weight."""
    module = model.get_submodule(norm.name)
    scale_output(module, norm.kind, d)
    with torch.no_grad():
        for name in readers:
            linear = model.get_submodule(name)
            linear.weight.copy_(linear.weight.double() / d)  # type: ignore[union-attr, operator, arg-type]


def scale_pair(model: nn.Module, up: str, down: str, d: Tensor) -> None:
    """Rows of `up` ← rows·d (its output enters the down projection's input as a factor), columns of `down` ← / d."""
    first, second = model.get_submodule(up), model.get_submodule(down)
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight.copy_(first.weight.double() * d[:, None])
        if first.bias is not None:
            first.bias.copy_(first.bias.double() * d)
        second.weight.copy_(second.weight.double() / d)  # type: ignore[union-attr, operator, arg-type]


def transform_heads(model: nn.Module, attention: Attention, transforms: list[Tensor]) -> None:
    """Values of KV head h ← v·T_h, the output projection's columns of every query head of its group ← W·T_h⁻ᵀ."""
    assert attention.value is not None
    assert attention.output is not None
    value, output = model.get_submodule(attention.value), model.get_submodule(attention.output)
    assert isinstance(value, nn.Linear)
    assert isinstance(output, nn.Linear)
    group = attention.heads // attention.kv_heads
    with torch.no_grad():
        rows = value.weight.double().reshape(attention.kv_heads, -1, value.in_features)
        columns = output.weight.double().reshape(output.out_features, attention.kv_heads, group, -1)
        for h, t in enumerate(transforms):
            rows[h] = t.T @ rows[h]
            columns[:, h] = columns[:, h] @ torch.linalg.inv(t).T
        value.weight.copy_(rows.reshape(value.weight.shape))
        output.weight.copy_(columns.reshape(output.weight.shape))
        if value.bias is not None:
            parts = value.bias.double().reshape(attention.kv_heads, -1)
            value.bias.copy_(torch.cat([part @ t for part, t in zip(parts, transforms, strict=True)]))
