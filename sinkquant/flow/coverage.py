"""How many tokens of the calibration chose each expert, and what to do where they were few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from sinkquant.flow.plan import Shapes
from sinkquant.formats.facts import Experts
from sinkquant.recipes.schema import MOST_SEQUENCES, CalibrationSpec

MORE = 8  # times the text, at most, that is proposed: an expert that nobody chose may be chosen by nobody


def coverage(tokens: Mapping[str, Sequence[int]], shapes: Shapes) -> tuple[Experts, ...]:
    """Of every module of experts; `tokens` has the number that chose each of them."""
    found = []
    for module, counts in tokens.items():
        widths = [width for name, (_, width) in shapes.items() if name.startswith(f"{module}.")]
        found.append(Experts(module=module, tokens=list(counts), wanted=max(widths, default=0)))
    return tuple(found)


def coverage_note(found: Sequence[Experts], calibration: CalibrationSpec) -> str | None:
    """A sentence with the remedy where few tokens chose some experts, or None."""
    cold = [(count, one.wanted) for one in found for count in one.tokens if count < one.wanted]
    if not cold:
        return None
    factor = max(ceil(wanted / count) if count else MORE for count, wanted in cold)
    sequences = min(calibration.sequences * min(max(factor, 2), MORE), MOST_SEQUENCES)
    remedy = f"; more text makes them fewer: --set calibration.sequences={sequences}"
    fewest, wanted = min(cold)[0], max(wanted for _, wanted in cold)
    return (
        f"{len(cold)} of {sum(len(one.tokens) for one in found)} experts were chosen by fewer tokens than a linear of "
        f"theirs has input channels ({fewest} at least, of {wanted}) and were shown all tokens of their layer there"
        + (remedy if sequences > calibration.sequences else "")
    )
