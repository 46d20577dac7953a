"""A report as people read it."""

from __future__ import annotations

from sinkquant.cli.describe_sinks import report_sheets
from sinkquant.report.table import to_markdown
from sinkquant.sinks.report import (
    ANY_TOKEN,
    Channel,
    LayerStats,
    Origin,
    PrefixChoice,
    ResidualSink,
    Sink,
    SinkReport,
    SuperExpert,
    Verdict,
    Waste,
)  # fmt: skip

SINK = Sink(
    token=ANY_TOKEN, token_id=None, position=0, emergence=11, drop=28, residual_ratio=900.0, down_ratio=2200.0,
    received_attention=0.5, heads_above=7, heads=9, frequency=1.0,
    origin=Origin(layer=11, row=507, column=3, value=2.0),
)  # fmt: skip
PREFIX = PrefixChoice(
    ids=(1,), tokens=("<s>",), reason="it absorbs the sink", absorbed=False, left=2, trials=(), loss_without=3.2,
    loss_with=3.1,
)  # fmt: skip
LAYER = LayerStats(
    index=0, residual_ratio=1.5, residual_max=3.0, residual_channel=7, down_ratio=2.5, down_max=4.0,
    received_attention=0.1, heads_above=0, heads=9, key_norm_ratio=1.0, value_norm_ratio=1.0,
)  # fmt: skip
EXPERT = SuperExpert(
    module="layers.11.mlp.experts", layer=11, expert=3, row=507, column=9, value=-5.875, share=0.493, score=0.51,
    frequency=0.75,
)  # fmt: skip


def report(**changes: object) -> SinkReport:
    facts = {
        "model": "tiny", "verdict": (Verdict.POSITIONAL, Verdict.CONTENT), "sinks": (SINK,),
        "channels": (Channel(index=507, blocks=(11, 12, 13, 28), ratio=900.0, every_token=False),), "prefix": PREFIX,
        "residual": (ResidualSink(token=" the", token_id=260, blocks=(2,), ratio=80.0, count=5),), "layers": (LAYER,),
        "threshold": 64.0, "sweep": {64.0: 1}, "bos": "added", "tokens": 2048, "seconds": 1.0, "calibration": "text",
        "waste": (Waste(module="layers.0.mlp.down", underflow=0.25, dispersion=2200.0, bits=11.1),),
        "super_experts": (EXPERT,),
    }  # fmt: skip
    return SinkReport.model_validate(facts | changes)


def markdown(found: SinkReport) -> str:
    return "\n".join(map(to_markdown, report_sheets(found)))


def test_everything_that_was_found_is_shown() -> None:
    text = markdown(report())
    for part in (
        "positional", "content", "any at 0", "| 11 | 28 |", "2200", "7/9", "11[507,3]",
        "| 507 | 11-13, 28 |", "it absorbs the sink", "'<s>' (1)", "3.2000, 3.1000", "' the'",
            "| layers.0.mlp.down | 11.1 | 2200 | 25.0% |", "| 0 | 1.5 | 7 |",
        "| 11 | 3 | [507,9] = -5.88 | 49% | 0.51 | 75% |",
    ):  # fmt: skip
        assert part.replace("<", "\\<") in text, part


def test_the_weight_that_writes_a_sink_names_its_expert() -> None:
    assert SINK.origin is not None
    inside = SINK.model_copy(update={"origin": SINK.origin.model_copy(update={"expert": 3})})
    assert "| 11 expert 3 [507,3] |" in markdown(report(sinks=(inside,)))


def test_a_model_without_sinks_shows_no_empty_tables() -> None:
    none = PREFIX.model_copy(update={"ids": (), "tokens": ()})
    found = report(verdict="none", sinks=(), channels=(), residual=(), waste=(), super_experts=(), prefix=none)
    titles = [sheet.title.split()[0] for sheet in report_sheets(found)]
    assert titles == ["Verdict", "Prefix", "Blocks"]
    assert "| tokens | none |" in markdown(found)
