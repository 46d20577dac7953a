"""A SinkReport as tables for people."""

from __future__ import annotations

from collections.abc import Iterator

from sinkquant.report.table import Sheet, rows
from sinkquant.sinks.report import ANY_TOKEN, LayerStats, PrefixChoice, Sink, SinkReport, SuperExpert, Verdict

MEANING = {
    Verdict.POSITIONAL: "whatever token stands at a certain position is a sink",
    Verdict.CONTENT: "certain tokens are sinks wherever they stand",
    Verdict.CHANNEL: "a channel is large on every token",
    Verdict.NONE: "no token and no channel stands out",
}


def report_sheets(report: SinkReport) -> Iterator[Sheet]:
    """The verdict, what was found, the prefix with its reason, and a line a block."""
    verdicts = [(verdict.value, MEANING[verdict]) for verdict in report.verdict]
    text = f"{report.tokens} tokens, BOS {report.bos}, {report.seconds:.1f} s"
    yield rows(f"Verdict on {report.model} ({text})", ("", ""), verdicts)
    if report.sinks:
        facts = ("token", "from", "drop", "residual", "down", "attention", "heads", "weight")
        title = "Sinks (ratios to the median token; weight: the block[row, column] that writes it)"
        yield rows(title, facts, map(_sink, report.sinks))
    if report.super_experts:
        told = ("block", "expert", "weight", "of the spike", "router score", "sinks that choose it")
        yield rows("Super experts (their down projections write the spikes)", told, map(_super, report.super_experts))
    if report.channels:
        found = [
            (c.index, _span(c.blocks), c.ratio, "every token" if c.every_token else "sinks") for c in report.channels
        ]
        yield rows("Outlier channels", ("channel", "blocks", "ratio", "on"), found)
    yield rows("Prefix", ("", ""), _prefix(report.prefix))
    if report.residual:
        left = [(s.token, s.token_id, _span(s.blocks), s.ratio, s.count) for s in report.residual]
        yield rows("Sinks that the prefix does not absorb", ("token", "id", "blocks", "ratio", "times"), left)
    if report.waste:
        lost = [(w.module, f"{w.bits:.1f}", w.dispersion, f"{w.underflow:.1%}") for w in report.waste]
        titles = ("input of", "bits lost", "largest to median row", "rows to zero")
        yield rows("What one static scale would cost, worst first", titles, lost)
    columns = ("block", "residual", "channel", "down input", "attention", "heads")
    yield rows("Blocks (ratios to the median token)", columns, map(_block, report.layers))


def _sink(sink: Sink) -> tuple[object, ...]:
    token = f"{sink.token!r} ({sink.token_id})"
    if sink.token_id is None:
        token = f"any at {sink.position}" if sink.token == ANY_TOKEN else f"{sink.token} ({sink.frequency:.0%})"
    if sink.same_channel is not None:
        token += ", a channel of text sinks" if sink.same_channel else ", a channel of its own"
    if sink.stack is not None:
        token = f"{sink.stack}: {token}"
    origin = sink.origin and f"{sink.origin.layer}{_in(sink.origin.expert)}[{sink.origin.row},{sink.origin.column}]"
    heads = f"{sink.heads_above}/{sink.heads}"
    ratios = (sink.residual_ratio, sink.down_ratio, sink.received_attention)
    return (token, sink.emergence, sink.drop, *ratios, heads, origin)


def _in(expert: int | None) -> str:
    return "" if expert is None else f" expert {expert} "


def _super(one: SuperExpert) -> tuple[object, ...]:
    shares = (f"{one.share:.0%}", f"{one.score:.2f}", f"{one.frequency:.0%}")
    return (one.layer, one.expert, f"[{one.row},{one.column}] = {one.value:.3g}", *shares)


def _block(layer: LayerStats) -> tuple[object, ...]:
    heads = f"{layer.heads_above}/{layer.heads}"
    residual = (layer.residual_ratio, layer.residual_channel)
    return (layer.index, *residual, layer.down_ratio, layer.received_attention, heads)


def _prefix(prefix: PrefixChoice) -> Iterator[tuple[str, object]]:
    named = (f"{token!r} ({number})" for token, number in zip(prefix.tokens, prefix.ids, strict=True))
    yield "tokens", ", ".join(named) or "none"
    yield "reason", prefix.reason
    yield "sinks left in held-out text", prefix.left
    if prefix.loss_without is not None and prefix.loss_with is not None:
        yield "loss without and with it (nats a token)", f"{prefix.loss_without:.4f}, {prefix.loss_with:.4f}"


def _span(blocks: tuple[int, ...]) -> str:
    """`(2, 3, 4, 9)` → `2-4, 9`."""
    runs: list[list[int]] = []
    for block in sorted(blocks):
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
