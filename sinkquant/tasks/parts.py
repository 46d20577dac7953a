"""Samples divided into those that are calibrated on and others that prove the result."""

from __future__ import annotations

from sinkquant.errors import UsageError
from sinkquant.inputs.batches import UNKNOWN, Batches
from sinkquant.tasks.task import Ask, Data

PROVES, LEAST = 4, 16  # one image in that many is for the proof, that many at least


def portions(ask: Ask) -> tuple[int, int]:
    """How many images are calibrated on, and how many more prove the result: as many as have the tokens that were asked
    for, at `UNKNOWN` patches each."""
    if not ask.proves:
        return ask.samples, 0
    wanted = max(LEAST, ask.samples * ask.length // UNKNOWN)
    return wanted, max(LEAST, wanted // PROVES)


def divided(batches: Batches, held_out: int, ask: Ask, what: str) -> Data:
    """The last `held_out` samples prove, a quarter of them where there are not many; `what` a sample is called.

    Raises UsageError where there is one sample, and calibration and proof must have their own.
    """
    found = batches.samples
    if found == 1 and ask.proves:
        raise UsageError(f"{batches.source} has one {what}, and calibration and proof need one each: give more.")
    spare = min(held_out, max(1, found // 4)) if ask.proves else min(held_out, found // 2)
    kept = found - spare
    notes = () if batches.said is None else (f"calibration on {batches.said}; the last {spare} prove the result",)
    return Data(batches.part(0, kept), batches.part(kept) if spare else batches, notes)
