from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkquant.errors import SinkquantError
from sinkquant.hadamard.paley import Field, _jacobsthal, paley_field, paley_matrix
from sinkquant.hadamard.transform import Factors, _matrices, factor, fast_hadamard, fast_hadamard_transpose

PALEY_ORDERS = [4, 12, 20, 28, 36, 44, 60, 68, 76, 100, 108, 140, 148, 180, 244, 344, 924]
# Widths and feed-forward sizes of real models that are no power of two.
MODEL_SIZES = [576, 896, 1536, 4864, 6912, 8960, 9728, 11008, 12288, 13824, 14336, 17920]
MODEL_SIZES += [18944, 25600, 27648, 28672, 29568]


def dense(n: int) -> torch.Tensor:
    """The transform of size n as a float64 matrix, from the definition: Sylvester entries are (-1)^popcount(i & j)."""
    factors = factor(n)
    numbers = range(2**factors.power)
    sylvester = torch.tensor([[(-1.0) ** (i & j).bit_count() for j in numbers] for i in numbers], dtype=torch.float64)
    core = paley_matrix(factors.core) if factors.core > 1 else torch.ones(1, 1, dtype=torch.float64)
    assert core is not None
    block = torch.kron(core, sylvester)
    return torch.block_diag(*[block] * factors.blocks) / len(block) ** 0.5


@pytest.mark.parametrize("order", PALEY_ORDERS)
def test_paley_matrices_are_hadamard_exactly(order: int) -> None:
    h = paley_matrix(order)
    assert h is not None
    assert torch.equal(h.abs(), torch.ones(order, order, dtype=torch.float64))
    assert torch.equal(h @ h.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize(
    "field", [Field(7, 1), Field(3, 2), Field(5, 2), Field(3, 3), Field(7, 2), Field(3, 4), Field(5, 3)]
)
def test_jacobsthal_matrices_have_their_defining_products(field: Field) -> None:
    # Q Qᵀ = q I - J and Q J = 0. In GF(9) the count of distinct squares alone would accept the reducible x².
    matrix, q = _jacobsthal(field).double(), field.order
    assert torch.equal(matrix @ matrix.T, q * torch.eye(q, dtype=torch.float64) - 1)
    assert not matrix.sum(0).any()


@pytest.mark.parametrize("order", [0, 1, 2, 3, 6, 10, 92, 116, 156, 428])
def test_orders_without_a_paley_matrix(order: int) -> None:
    # 92, 116, 156, 428: neither order - 1 nor order / 2 - 1 is a suitable prime power (other constructions reach them).
    assert paley_field(order) is None
    assert paley_matrix(order) is None


def test_a_changed_paley_matrix_does_not_change_the_next_one() -> None:
    first = paley_matrix(12)
    assert first is not None
    first.zero_()
    second = paley_matrix(12)
    assert second is not None
    assert second.abs().min() == 1


@pytest.mark.parametrize("n", PALEY_ORDERS + MODEL_SIZES)
def test_paley_orders_and_model_sizes_are_one_block(n: int) -> None:
    factors = factor(n)
    assert factors.blocks == 1
    assert factors.core * 2**factors.power == n


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, Factors(core=1, power=0, blocks=1)),
        (64, Factors(core=1, power=6, blocks=1)),
        (576, Factors(core=36, power=4, blocks=1)),
        (1536, Factors(core=12, power=7, blocks=1)),
        (11008, Factors(core=344, power=5, blocks=1)),
        (29568, Factors(core=924, power=5, blocks=1)),
        (13696, Factors(core=1, power=7, blocks=107)),
        (6, Factors(core=1, power=1, blocks=3)),
        (15, Factors(core=1, power=0, blocks=15)),
    ],
)
def test_factor(n: int, expected: Factors) -> None:
    assert factor(n) == expected


@pytest.mark.parametrize("n", [1, 2, 6, 7, 12, 20, 28, 36, 64, 72, 92, 100, 128, 256, 344, 576, 856, 1536])
def test_fast_transform_equals_the_dense_matrix(n: int) -> None:
    x = torch.randn(5, n, dtype=torch.float64)
    h = dense(n)
    torch.testing.assert_close(fast_hadamard(x), x @ h, rtol=0, atol=1e-12)
    torch.testing.assert_close(fast_hadamard_transpose(x), x @ h.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(36,), (1, 36), (2, 3, 36), (2, 1, 4, 36), (0, 36), (2, 0, 36)])
def test_any_leading_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    y = fast_hadamard(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y, x @ dense(36), rtol=0, atol=1e-12)


def test_input_need_not_be_contiguous_and_is_not_changed() -> None:
    base = torch.randn(72, 9, dtype=torch.float64)
    x, before = base.T, base.clone()
    torch.testing.assert_close(fast_hadamard(x), x @ dense(72), rtol=0, atol=1e-12)
    assert torch.equal(base, before)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)]
)
def test_dtypes_keep_their_precision(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.randn(16, 1536).to(dtype)
    y = fast_hadamard(x)
    assert y.dtype == dtype
    # Half formats are rounded once, at the end: half a unit in the last place, relative to each value.
    torch.testing.assert_close(y.double(), x.double() @ dense(1536), rtol=tolerance, atol=1e-5)


def test_integers_and_empty_sizes_are_refused() -> None:
    with pytest.raises(SinkquantError, match="floating-point"):
        fast_hadamard(torch.ones(2, 8, dtype=torch.int64))
    with pytest.raises(SinkquantError, match="at least 1"):
        factor(0)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 400), rows=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_norm_is_kept_and_the_transpose_inverts(n: int, rows: int, seed: int) -> None:
    x = torch.randn(rows, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = fast_hadamard(x)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(fast_hadamard_transpose(y), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(fast_hadamard(fast_hadamard_transpose(x)), x, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 30_000))
def test_factors_multiply_to_the_size(n: int) -> None:
    factors = factor(n)
    assert factors.blocks * factors.core * 2**factors.power == n
    assert factors.blocks == 1 or (factors.core == 1 and factors.blocks % 2 == 1)
    smaller = [n >> p for p in range(factors.power + 1, n.bit_length()) if n % 2**p == 0]
    assert not any(paley_field(core) for core in smaller)


def test_an_outlier_is_spread_over_all_channels() -> None:
    x = torch.zeros(1, 576)
    x[0, 507] = 240.0
    assert torch.allclose(fast_hadamard(x).abs(), torch.full((1, 576), 10.0))


def test_gradient_is_the_transpose() -> None:
    x = torch.randn(3, 60, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 60, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(fast_hadamard(x), x, upstream)
    torch.testing.assert_close(gradient, upstream @ dense(60).T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_equals_eager(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: fast_hadamard_transpose(2 * fast_hadamard(x)), backend=backend, fullgraph=True)
    for rows, n in [(3, 576), (5, 576), (2, 64)]:
        x = torch.randn(rows, n)
        assert torch.equal(compiled(x), fast_hadamard_transpose(2 * fast_hadamard(x)))


def test_a_first_call_in_a_special_mode_does_not_spoil_later_ones() -> None:
    class Transform(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return fast_hadamard(x)

    # Sizes that no other test uses, so that each mode is the one that fills the cache.
    with torch.inference_mode():
        fast_hadamard(torch.randn(2, 204))
    with torch.device("meta"):
        assert fast_hadamard(torch.randn(2, 216)).is_meta
        fast_hadamard(torch.randn(2, 228, device="cpu"))
    exported = torch.export.export(Transform(), (torch.randn(2, 252),)).module()
    for n in (204, 216, 228, 252):
        assert not any(m.is_inference() or m.is_meta for m in _matrices(n, False, torch.float32, torch.device("cpu")))
        x = torch.randn(2, n, requires_grad=True)
        fast_hadamard(x).sum().backward()
        assert x.grad is not None
    x = torch.randn(2, 252)
    torch.testing.assert_close(exported(x), fast_hadamard(x))
