"""Thresholds, channels and emergence on numbers made up for the purpose."""

from __future__ import annotations

import pytest
import torch

from sinkquant.models.attention import AttentionCall
from sinkquant.sinks.classify import (
    THRESHOLDS,
    agreement,
    choose_threshold,
    emergence_and_drop,
    outlier_channels,
    sweep_thresholds,
    verdicts,
)
from sinkquant.sinks.report import Verdict
from sinkquant.sinks.signals.received_attention import received_attention
from sinkquant.sinks.signals.residual import channel_ratio, token_ratio
from sinkquant.sinks.signals.sink_logits import sink_logit_mass

NOTHING = dict.fromkeys(THRESHOLDS, 0.0)


def test_a_token_counts_once_however_many_blocks_it_stands_out_in() -> None:
    ratio = torch.ones(3, 2, 5)
    ratio[1:, 0, 0] = 300.0
    ratio[2, 1, 4] = 9.0
    sweep = sweep_thresholds(ratio)
    assert [sweep[t] for t in (5.0, 8.0, 12.0, 200.0, 500.0)] == [2, 2, 1, 1, 0]


def test_the_threshold_lies_on_the_longest_plateau() -> None:
    counts = dict(zip(THRESHOLDS, (40, 35, 26, 12, 8, 8, 8, 8, 8, 0, 0), strict=True))
    assert choose_threshold(counts, NOTHING) == 64.0
    assert counts[choose_threshold(counts, NOTHING)] == 8


def test_the_empty_end_of_the_sweep_does_not_hide_sinks_of_moderate_ratio() -> None:
    """Eight sinks with ratios between 100 and 200: the zeros from 200 to 1000 are the longer run."""
    counts = dict(zip(THRESHOLDS, (40, 35, 26, 12, 8, 8, 8, 8, 0, 0, 0), strict=True))
    assert counts[choose_threshold(counts, NOTHING)] == 8
    assert choose_threshold(dict.fromkeys(THRESHOLDS, 0), NOTHING) == 50.0


def test_without_a_plateau_attention_decides() -> None:
    """Ratios fall off evenly, as in models whose channels are large on every token; one token draws attention."""
    ratio = torch.tensor([6.0, 7, 9, 11, 13, 16, 22, 35]).expand(3, 1, 8)
    received = torch.zeros(3, 1, 8)
    received[1:, 0, 7] = 0.6
    sweep = sweep_thresholds(ratio)
    assert choose_threshold(sweep, agreement(ratio, received)) == 32.0
    received[:] = 0.0
    assert sweep[choose_threshold(sweep, agreement(ratio, received))] == 0


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([1.0, 90, 90.1, 90, 91], (1, None)),
        ([1.0, 1, 90, 91, 91, 5, 4], (2, 5)),
        ([1.0, 50, 50], (1, None)),
        ([80.0, 80, 10], (0, 2)),
    ],
)
def test_emergence_and_drop(curve: list[float], expected: tuple[int, int | None]) -> None:
    assert emergence_and_drop(torch.tensor(curve), embedding=1.0) == expected


def test_a_channel_counts_only_if_it_is_large_on_nearly_every_token() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 100, 16, generator=generator)
    x[:, :, 3] = 500.0
    x[:, :20, 7] = 500.0  # a fifth of the tokens
    (found,) = outlier_channels(channel_ratio(x)[None])
    assert (found.index, found.blocks, found.every_token) == (3, (0,), True)


def test_mixture_and_none() -> None:
    assert verdicts(True, False, True) == (Verdict.POSITIONAL, Verdict.CHANNEL)
    assert verdicts(False, False, False) == (Verdict.NONE,)


def test_token_ratio_is_to_the_median_of_its_own_sequence() -> None:
    peaks = torch.tensor([[1.0, 1, 1, 8], [10.0, 10, 10, 80]])
    assert torch.equal(token_ratio(peaks)[:, 3], torch.tensor([8.0, 8.0]))


def test_received_attention_is_a_mean_over_the_queries_that_see_the_key() -> None:
    """Equal logits: query i spreads 1/(i+1); the last keys are seen by too few queries."""
    call = AttentionCall(torch.zeros(2, 4, 8, 6), torch.zeros(2, 2, 8, 6), torch.zeros(2, 2, 8, 6), None, scaling=1.0)
    received = received_attention(call)
    weights = [1 / (i + 1) for i in range(8)]
    assert received.shape == (2, 4, 8)
    assert float(received[1, 3, 2]) == pytest.approx(sum(weights[2:]) / 6)
    assert received[..., 7].eq(0).all()
    assert received[..., 6].gt(0).all()


def test_received_attention_leaves_padding_out() -> None:
    visible = torch.ones(8, 8, dtype=torch.bool).tril()[None, None].clone()
    visible[..., :3] = False  # left padding
    visible[..., :3, :] = torch.eye(8, dtype=torch.bool)[:3]  # padded queries see themselves only
    shape = (1, 1, 8, 4)
    received = received_attention(AttentionCall(*[torch.zeros(shape)] * 3, visible))
    assert float(received[0, 0, 3]) == pytest.approx(sum(1 / n for n in range(1, 6)) / 5)


def test_attention_that_goes_to_sink_logits_is_counted_apart() -> None:
    query, key = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4)  # equal logits: every visible key gets the same
    call = AttentionCall(query, key, key, None, sink_logits=torch.tensor([0.0, -60.0]))
    expected = torch.tensor([[1 / 2, 1 / 3, 1 / 4]]) / 2  # the first head's logit counts like one more key
    torch.testing.assert_close(sink_logit_mass(call), expected)
    assert float(sink_logit_mass(AttentionCall(query, key, key, None)).sum()) == 0
