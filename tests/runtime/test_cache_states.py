"""Packed keys and values: nothing is lost but what the grid rounds away."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkquant.quantization.kv import KVGrid
from sinkquant.runtime.cache_states import States
from sinkquant.runtime.packing import pack_bytes, unpack_bytes

BITS = st.sampled_from([2, 4, 8])
SEEDS = st.integers(0, 2**31)


@settings(max_examples=60, deadline=None)
@given(bits=BITS, size=st.integers(1, 19), tokens=st.integers(0, 5), seed=SEEDS)
def test_bytes_hold_all_codes(bits: int, size: int, tokens: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (2, tokens, size), dtype=torch.uint8, generator=generator)
    packed = pack_bytes(codes, bits)
    assert packed.shape == (2, tokens, -(-size * bits // 8))
    assert torch.equal(unpack_bytes(packed, bits, size), codes)


@settings(max_examples=60, deadline=None)
@given(
    bits=BITS,
    clip=st.sampled_from([1.0, 0.9]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from([1e-4, 1.0, 300.0]),
    steps=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=SEEDS,
)
def test_states_give_what_the_grid_gives(
    bits: int, clip: float, dtype: torch.dtype, scale: float, steps: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(2, 3, sum(steps), 10, generator=generator) * scale).to(dtype)
    grid = KVGrid(bits, clip, torch.randn(3, 1, 10, generator=generator))
    states = States.empty(x, bits)
    for piece in x.split(steps, dim=2):
        states = states.append(piece).pack(states.length, grid)  # the newest piece stays exact
    last = sum(steps) - steps[-1]
    assert torch.equal(states.decode(grid), grid.fake(x)[:, :, :last])
    assert torch.equal(states.exact, x[:, :, last:])
    middle = states.cut(1, sum(steps) - 1)
    assert torch.equal(middle.pack(middle.length, grid).decode(grid), grid.fake(x)[:, :, 1 : sum(steps) - 1])
    assert middle.nbytes < states.nbytes


@settings(max_examples=60, deadline=None)
@given(bits=BITS, magnitude=st.floats(1e-3, 1e4), seed=SEEDS)
def test_the_error_is_half_a_step(bits: int, magnitude: float, seed: int) -> None:
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(seed)) * magnitude
    step = (x.amax(-1) - x.amin(-1)) / (2**bits - 1)
    error = (KVGrid(bits).fake(x) - x).abs().amax(-1)
    rounding = x.abs().amax(-1) * 2**-10  # scale and minimum have 11 bits of mantissa
    assert (error <= step / 2 * 1.001 + rounding).all()


def test_tokens_without_range_and_beyond_float16_stay_finite() -> None:
    x = torch.tensor([[0.0, 0.0], [7.0, 7.0], [1e-30, -1e-30], [1e6, -1e6], [3e5, 3e5]])
    for bits in (2, 4, 8):
        y = KVGrid(bits).fake(x)
        assert y.isfinite().all()
        torch.testing.assert_close(y[:3], x[:3], rtol=1e-3, atol=1e-3)
