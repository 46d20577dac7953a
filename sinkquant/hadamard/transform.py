"""The fast orthonormal Hadamard transform for any size: Paley core ⊗ Sylvester, else block-diagonal Sylvester.

A row of length core · 2^power is seen as a (core, 2^power) array. H = C ⊗ S then acts on each axis alone, and the
Sylvester axis splits further, because S of order a·b is S_a ⊗ S_b. Each axis costs one matmul with a small matrix; on a
CPU that is several times faster than butterflies of additions, which read and write the whole tensor `power` times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import index
from typing import ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from sinkquant.errors import SinkquantError
from sinkquant.hadamard.paley import paley_field, paley_matrix

# Axes of at most 64 (a larger core apart): the fastest limit, or close to it, at every size tried.
RADIX_BITS = 6

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Factors:
    """A size as blocks · core · 2^power; each block gets Paley (order core) ⊗ Sylvester (order 2^power)."""

    core: int
    power: int
    blocks: int


def factor(n: int) -> Factors:
    """How size n is transformed: one block with the smallest core there is, else blocks of the largest power of two."""
    if n < 1:
        raise SinkquantError(f"a Hadamard transform needs a size of at least 1, not {n}: check the shape of the input.")
    twos = (n & -n).bit_length() - 1
    for power in range(twos, -1, -1):
        core = n >> power
        if core == 1 or paley_field(core):
            return Factors(core, power, blocks=1)
    return Factors(core=1, power=twos, blocks=n >> twos)


def fast_hadamard(x: Tensor) -> Tensor:
    """x (…, n) -> x @ H / sqrt(order), in each block of the last dimension; see `factor` for H.

    float16 and bfloat16 are computed in float32 and cast back. Differentiable; torch.compile traces H as a constant.
    Raises SinkquantError for integers.
    """
    return _transform(x, transpose=False)


def fast_hadamard_transpose(x: Tensor) -> Tensor:
    """x (…, n) -> x @ Hᵀ / sqrt(order): the inverse of `fast_hadamard` (a Paley H need not be symmetric)."""
    return _transform(x, transpose=True)


def constant(build: Callable[P, T]) -> Callable[P, T]:
    """Cache the tensors that `build` makes from hashable arguments, safely wherever a model may run.

    A first call inside torch.export, torch.inference_mode or a default device must not leave a fake, inference or meta
    tensor in the cache, so `build` runs outside of them. torch.compile takes the result as a constant, so
    arguments must be plain numbers there (`operator.index` makes a symbolic size one). Do not change the tensors.
    """

    def outside(*args: P.args, **kwargs: P.kwargs) -> T:
        with _disable_current_modes(), torch.inference_mode(False), torch.device("cpu"):
            return build(*args, **kwargs)

    cached = cast("Callable[P, T]", lru_cache(outside))

    # torch.compile looks through lru_cache with a warning; this plain function hides it.
    @torch.compiler.assume_constant_result
    def get(*args: P.args, **kwargs: P.kwargs) -> T:
        return cached(*args, **kwargs)

    return cast("Callable[P, T]", get)


def _transform(x: Tensor, transpose: bool) -> Tensor:
    if not x.is_floating_point():
        raise SinkquantError(f"a Hadamard transform needs floating-point input, not {x.dtype}: call .float() on it.")
    dtype = x.dtype if x.dtype == torch.float64 else torch.float32
    y = x.to(dtype)
    inner = 1
    for matrix in _matrices(index(x.shape[-1]), transpose, dtype, x.device):
        size = len(matrix)
        y = y.reshape(-1, size, inner)
        y = matrix @ y if inner > 1 else y.squeeze(-1) @ matrix.T  # one large product beats many thin ones
        inner *= size
    return y.reshape(x.shape).to(x.dtype)


@constant
def _matrices(n: int, transpose: bool, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Orthonormal matrices that act from the left on the axes of a block, last axis first."""
    factors = factor(n)
    core = paley_matrix(factors.core)
    # A small core takes Sylvester bits with it, which often saves an axis: 1536 = 12 · 128 becomes 48 · 32.
    taken = 0 if core is None else min(factors.power, max(0, RADIX_BITS - (factors.core - 1).bit_length()))
    bits = factors.power - taken
    axes = -(-bits // RADIX_BITS)
    matrices = [_sylvester((bits + i) // axes) for i in reversed(range(axes))]
    if core is not None:
        mixed = torch.kron(core, _sylvester(taken))
        matrices.append(mixed if transpose else mixed.T)
    return tuple((m / len(m) ** 0.5).to(device, dtype) for m in matrices)


def _sylvester(bits: int) -> Tensor:
    """The Sylvester Hadamard matrix (2^bits, 2^bits) float64 of ±1; it is symmetric."""
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(bits):
        matrix = torch.kron(matrix, step)
    return matrix
