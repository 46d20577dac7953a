"""Which shipped recipe serves which wish: bits of the weights, and who is to load the checkpoint."""

from __future__ import annotations

from ..errors import UsageError, unknown

NAMES = {
    (8, "sink-aware"): "w8a8-static", (8, "portable"): "w8a8", (4, "sink-aware"): "w4a8kv4", (4, "portable"): "w4a16",
}  # fmt: skip
DEFAULT_BITS, DEFAULT_TARGET = 8, "sink-aware"


def candidate(bits: int | None, target: str | None) -> str:
    """The recipe's name; None stands for the default. Raises UsageError for bits or a target that no recipe has."""
    bits, target = DEFAULT_BITS if bits is None else bits, DEFAULT_TARGET if target is None else target
    widths, targets = ({key[place] for key in NAMES} for place in (0, 1))
    if bits not in widths:
        raise UsageError(
            f"bits is {bits} but must be {' or '.join(map(str, sorted(widths, key=str)))}: "
            "name a recipe to set other widths."
        )
    if target not in targets:
        raise unknown("target", target, [str(name) for name in targets])
    return NAMES[bits, target]


def refuse_both(recipe: object, bits: int | None, target: str | None) -> None:
    """Raise UsageError where a recipe is named as well as the wishes that would choose one."""
    if recipe is not None and (bits is not None or target is not None):
        raise UsageError(
            "bits and target choose a recipe but one is named: leave out --recipe, or leave out --bits and --target "
            "and change the recipe with --set."
        )
