"""Where a budget of bits goes: to the sites that gain most for each bit."""

from __future__ import annotations

from collections.abc import Sequence


def spend(losses: Sequence[float], sizes: Sequence[int], room: float) -> tuple[int, ...]:
    """Indices of the sites to raise, in the order of choice.

    `losses`: what low bits cost at each site; `sizes`: its weights; `room`: how many weights may be raised in all. All
    are raised by the same number of bits, so that the gain for a bit is loss / size. Greedy: a site that no longer fits
    is passed over for a smaller one.
    """
    chosen = []
    for index in sorted(range(len(losses)), key=lambda i: -losses[i] / sizes[i]):  # stable: ties in the model's order
        if sizes[index] <= room:
            chosen.append(index)
            room -= sizes[index]
    return tuple(chosen)
