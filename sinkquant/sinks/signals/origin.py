"""The weight that writes a sink into the stream ("super weight", arXiv 2411.07191)."""

from __future__ import annotations

from torch import nn

from sinkquant.sinks.report import Origin


def find_origin(down: nn.Module | None, layer: int, channel: int, column: int) -> Origin | None:
    """Row = the sink's channel, column = the largest input of the down projection at the sink; None without a linear.

    The weight is the origin where a feed-forward writes the sink, which holds in the known models; a sink that an
    attention writes has no single weight.
    """
    if not isinstance(down, nn.Linear):
        return None
    return Origin(layer=layer, row=channel, column=column, value=float(down.weight[channel, column].detach()))
