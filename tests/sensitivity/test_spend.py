"""Spending: never more than there is, and always where a bit gains most."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sinkquant.sensitivity.spend import spend

SITES = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 1000)), max_size=30)


def test_the_best_gain_for_each_bit_comes_first() -> None:
    assert spend([1.0, 3.0, 2.0], [10, 60, 10], 20) == (2, 0)  # 3 is the largest loss but 60 weights do not fit
    assert spend([1.0, 3.0, 2.0], [10, 60, 10], 75) == (2, 0)  # what is left, 55, is too little for 60
    assert spend([1.0, 9.0, 2.0], [10, 60, 10], 75) == (2, 1)  # 0.2 and 0.15 for a weight
    assert spend([5.0, 4.0, 0.1], [50, 50, 4], 55) == (0, 2)  # passed over for a smaller one
    assert spend([1.0, 1.0], [4, 4], 4) == (0,)  # ties in the model's order
    assert spend([1.0], [4], 3.9) == ()


@given(SITES, st.floats(0, 40_000))
def test_never_more_than_there_is(sites: list[tuple[float, int]], room: float) -> None:
    losses, sizes = [loss for loss, _ in sites], [size for _, size in sites]
    chosen = spend(losses, sizes, room)
    assert len(set(chosen)) == len(chosen)
    left = room - sum(sizes[i] for i in chosen)
    assert left >= 0
    assert all(sizes[i] > left for i in range(len(sites)) if i not in chosen)  # nothing that fits is left over


@given(SITES)
def test_room_for_all_raises_all(sites: list[tuple[float, int]]) -> None:
    losses, sizes = [loss for loss, _ in sites], [size for _, size in sites]
    assert sorted(spend(losses, sizes, sum(sizes))) == list(range(len(sites)))
