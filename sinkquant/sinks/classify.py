"""The verdict, by experiment on the probes' signals: pure functions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sinkquant.sinks.observe import Observation
from sinkquant.sinks.probes import Kind, Probes
from sinkquant.sinks.report import Channel, Verdict
from sinkquant.sinks.signals.received_attention import ABOVE

THRESHOLDS = (5.0, 8.0, 12.0, 20.0, 32.0, 50.0, 64.0, 100.0, 200.0, 500.0, 1000.0)
PLATEAU = 3.0  # thresholds that differ by less may agree by chance
AGREE = 0.5  # most of the tokens that stand out or draw attention do both
CHANNEL_RATIO = 50.0  # a channel this much above the median one on nearly every token is an outlier channel


def sweep_thresholds(ratio: Tensor) -> dict[float, int]:
    """Number of tokens whose largest ratio over blocks reaches each threshold; `ratio` (L, N, T)."""
    largest = ratio.amax(dim=0)
    return {tau: int((largest >= tau).sum()) for tau in THRESHOLDS}


def agreement(ratio: Tensor, received: Tensor) -> dict[float, float]:
    """How well the tokens that reach each threshold match those that draw attention: Jaccard index, 0 without either.

    `ratio` and `received` are (L, N, T).
    """
    drawing = (received > ABOVE).sum(dim=0) > 1
    largest = ratio.amax(dim=0)
    found = {}
    for tau in THRESHOLDS:
        high = largest >= tau
        found[tau] = int((high & drawing).sum()) / max(1, int((high | drawing).sum()))
    return found


def choose_threshold(sweep: Mapping[float, int], agree: Mapping[float, float]) -> float:
    """The middle of the longest run of thresholds (on a log scale) over which the count does not change.

    No single number fits all models; on the plateau the choice does not matter. Beyond the largest ratio every count is
    0, so that run says how far the thresholds reach, not that there are no sinks. Where no other run covers a factor of
    `PLATEAU`, the threshold that `agree`s best with attention decides, if it agrees at all. The first of equals wins.
    """
    runs: list[list[float]] = []
    for tau in sorted(sweep):
        if runs and sweep[runs[-1][-1]] == sweep[tau]:
            runs[-1].append(tau)
        else:
            runs.append([tau])
    plateaus = [run for run in runs if sweep[run[0]] > 0 and run[-1] / run[0] >= PLATEAU]
    if not plateaus and max(agree.values()) >= AGREE:
        return max(agree, key=lambda tau: agree[tau])
    longest = max(plateaus or runs, key=lambda run: run[-1] / run[0])
    return longest[len(longest) // 2]


def sink_tokens(seen: Observation, threshold: float) -> Tensor:
    """(N, T) bool: tokens that stand out in the stream of some block, or draw the attention of more than one block."""
    return (seen.residual_ratio.amax(dim=0) >= threshold) | ((seen.received > ABOVE).sum(dim=0) > 1)


def is_positional(seen: Observation, probes: Probes, threshold: float) -> bool:
    """Whether position 0 is a sink in some block whatever token stands there, in the stream or by attention."""
    labels = [label for label in dict.fromkeys(probes.labels) if label != Kind.BOS]

    def persists(signal: Tensor) -> Tensor:
        """(L,): the weakest, over experiments, of the median signal at position 0."""
        medians = [signal[:, probes.rows(label), 0].median(dim=1).values for label in labels]
        return torch.stack(medians).amin(dim=0)

    return bool((persists(seen.residual_ratio) >= threshold).any() or (persists(seen.received) > ABOVE).any())


def content_sinks(seen: Observation, probes: Probes, threshold: float, positional: bool) -> dict[int, Tensor]:
    """Token ids that are sinks by what they are, and for each (N, T) bool where.

    Behind position 0 a sink has to stand out in the stream and draw attention in some head. At position 0 of usual
    text a sink that does not survive another first token is one by content too (a BOS without which there is none).
    """
    chosen = torch.tensor([kind != Kind.BOS for kind in probes.kinds], device=seen.ids.device)
    late = (seen.residual_ratio.amax(dim=0) >= threshold) & (seen.heads_above.amax(dim=0) > 0)
    late[:, 0] = False
    late &= chosen[:, None]
    if not positional:
        usual = torch.tensor([kind in (Kind.PLAIN, Kind.PERMUTED) for kind in probes.kinds], device=seen.ids.device)
        late[:, 0] = sink_tokens(seen, threshold)[:, 0] & usual
    return {int(token): late & (seen.ids == token) for token in seen.ids[late].unique()}


def outlier_channels(channels: Tensor, ratio: float = CHANNEL_RATIO) -> tuple[Channel, ...]:
    """Channels that are large on nearly every token; `channels` (L, D) as in Observation. Strongest first."""
    found = [
        Channel(
            index=int(c),
            blocks=tuple((channels[:, c] >= ratio).nonzero().flatten().tolist()),
            ratio=float(channels[:, c].max()),
            every_token=True,
        )
        for c in (channels >= ratio).any(dim=0).nonzero().flatten()
    ]
    return tuple(sorted(found, key=lambda channel: -channel.ratio))


def sink_channels(seen: Observation, where: Tensor, threshold: float) -> tuple[Channel, ...]:
    """Channels that hold the residual peaks of the sinks `where` (N, T) bool, in the blocks where they reach τ."""
    hits = (seen.residual_ratio >= threshold) & where
    found = []
    for c in seen.channel[hits].unique():
        mine = hits & (seen.channel == c)
        blocks = tuple(mine.flatten(1).any(dim=1).nonzero().flatten().tolist())
        ratio = float(seen.residual_ratio[mine].max())
        found.append(Channel(index=int(c), blocks=blocks, ratio=ratio, every_token=False))
    return tuple(sorted(found, key=lambda channel: -channel.ratio))


def verdicts(positional: bool, content: bool, channel: bool) -> tuple[Verdict, ...]:
    """The parts of a mixture in fixed order; `none` where there is nothing."""
    parts = zip((Verdict.POSITIONAL, Verdict.CONTENT, Verdict.CHANNEL), (positional, content, channel), strict=True)
    return tuple(verdict for verdict, present in parts if present) or (Verdict.NONE,)


def emergence_and_drop(magnitude: Tensor, embedding: float) -> tuple[int, int | None]:
    """Block of the largest rise of a sink's magnitude (L,), and of the largest fall behind it (None: no block
    takes half of it away).

    `embedding` is the magnitude in front of block 0.
    """
    steps = torch.diff(magnitude, prepend=magnitude.new_tensor([embedding]))
    rise = int(steps.argmax())
    after = steps[rise + 1 :]
    if len(after) == 0 or float(after.min()) > -float(magnitude[rise:].max()) / 2:
        return rise, None
    return rise, rise + 1 + int(after.argmin())
