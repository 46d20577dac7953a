from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkquant.errors import SinkquantError
from sinkquant.hadamard.transform import fast_hadamard
from sinkquant.transforms.rotation import Rotation

SIZES = [1, 7, 12, 64, 576, 856]


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize("size", SIZES)
def test_the_matrix_is_orthogonal_and_is_what_apply_does(size: int, seed: int | None) -> None:
    rotation = Rotation(size, seed)
    q = rotation.matrix()
    x = torch.randn(4, size, dtype=torch.float64)
    torch.testing.assert_close(q @ q.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.apply(x), x @ q, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.apply_transpose(x), x @ q.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("size", SIZES)
def test_a_layer_norm_commutes_with_a_rotation_that_keeps_the_mean(size: int, seed: int | None) -> None:
    rotation, x = Rotation(size, seed, keeps_mean=True), 3 + torch.randn(4, size, dtype=torch.float64)
    torch.testing.assert_close(rotation.apply(x), x @ rotation.matrix(), rtol=0, atol=1e-11)
    torch.testing.assert_close(rotation.apply_transpose(rotation.apply(x)), x, rtol=0, atol=1e-11)
    torch.testing.assert_close(rotation.apply(x).mean(-1), x.mean(-1), rtol=0, atol=1e-11)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (size,))

    torch.testing.assert_close(norm(rotation.apply(x)), rotation.apply(norm(x)), rtol=0, atol=1e-7)


def test_an_outlier_is_spread_by_a_rotation_that_keeps_the_mean() -> None:
    x = 240.0 * torch.eye(576)
    assert Rotation(576, 0, keeps_mean=True).apply(x).abs().max() <= 48  # 10 if nothing were kept


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 300), seed=st.one_of(st.none(), st.integers(0, 2**31)))
def test_apply_and_its_transpose_are_inverses(size: int, seed: int | None) -> None:
    rotation = Rotation(size, seed)
    x = torch.randn(3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    torch.testing.assert_close(rotation.apply_transpose(rotation.apply(x)), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.apply(rotation.apply_transpose(x)), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.apply(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-12, atol=0)


def test_signs_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = Rotation(576, 3).matrix()
    torch.manual_seed(2)
    assert torch.equal(Rotation(576, 3).matrix(), first)
    assert not torch.equal(Rotation(576, 4).matrix(), first)
    # Q = diag(signs) · H: rows of Q are rows of H up to their sign, and both signs occur.
    h = fast_hadamard(torch.eye(576, dtype=torch.float64))
    signs = (first / h).mean(dim=1).round()
    torch.testing.assert_close(first, signs[:, None] * h, rtol=0, atol=1e-12)
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert torch.equal(Rotation(576, None).matrix(), h)


def test_a_drawn_seed_of_zero_is_not_no_seed() -> None:
    assert not torch.equal(Rotation(64, 0).matrix(), Rotation(64, None).matrix())


def test_drawing_signs_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    Rotation(1234, 99).apply(torch.ones(1234))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    rotation = Rotation(64, 5)
    x = torch.randn(2, 64).to(dtype)
    assert rotation.apply(x).dtype == rotation.apply_transpose(x).dtype == dtype
    assert rotation.matrix(dtype).dtype == dtype
    torch.testing.assert_close(rotation.apply(x).double(), x.double() @ rotation.matrix(), rtol=2**-8, atol=1e-6)


def test_a_linear_absorbs_the_rotation_of_its_input() -> None:
    rotation = Rotation(576, 11)
    x, weight = torch.randn(8, 576), torch.randn(20, 576)
    torch.testing.assert_close(rotation.apply(x) @ rotation.apply(weight).T, x @ weight.T, rtol=1e-4, atol=1e-4)


def test_wrong_sizes_are_refused() -> None:
    rotation = Rotation(16, 2)
    with pytest.raises(SinkquantError, match="size 16 cannot act on 12 channels"):
        rotation.apply(torch.randn(2, 12))
    with pytest.raises(SinkquantError, match="size 16 cannot act on 32 channels"):
        rotation.apply_transpose(torch.randn(2, 32))


def test_compiled_equals_eager_for_several_rotations() -> None:
    torch._dynamo.reset()

    def rotate(x: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        return rotation.apply_transpose(2 * rotation.apply(x))

    compiled = torch.compile(rotate, backend="aot_eager", fullgraph=True)
    for rotation in [Rotation(64, 0), Rotation(64, 1), Rotation(576, 1), Rotation(576, None)]:
        x = torch.randn(3, rotation.size)
        assert torch.equal(compiled(x, rotation), rotate(x, rotation))


def test_compiled_gradient_equals_eager() -> None:
    torch._dynamo.reset()
    rotation = Rotation(36, 4)
    x = torch.randn(3, 36, requires_grad=True)
    (expected,) = torch.autograd.grad(rotation.apply(x).square().sum(), x)
    compiled = torch.compile(rotation.apply, backend="aot_eager", fullgraph=True)
    (got,) = torch.autograd.grad(compiled(x).square().sum(), x)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got, 2 * x.detach())
