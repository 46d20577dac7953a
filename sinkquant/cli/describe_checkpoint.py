"""An Inspection as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sinkquant.cli.describe import experts_sheets, size
from sinkquant.formats.inspection import Inspection, Part
from sinkquant.report.table import Sheet, key_values, rows

COLUMNS = ("modules", "number", "weights", "inputs", "bits", "share", "work")
LEGEND = "bits: stored for one weight, scales included; share of all parameters; work: share of all multiply-adds"


def checkpoint_sheets(found: Inspection) -> list[Sheet]:
    """What it is, what is quantized how, what is left in float, what can run it, and what was measured."""
    sheets = [rows("Checkpoint", ("", ""), _facts(found))]
    if found.quantized:
        sheets.append(rows(f"Quantized modules ({LEGEND})", COLUMNS, map(_part, found.quantized)))
    if found.floats:
        sheets.append(rows("Left in float", COLUMNS, map(_part, found.floats)))
    programs = [(one.name, "yes" if one.loads else "no", one.loss) for one in found.runtimes]
    sheets.append(rows("Runtimes", ("program", "runs it", "what is lost"), programs))
    sheets += experts_sheets(found.experts)
    return [*sheets, key_values("Figures", found.figures), key_values("Versions", found.versions)]


def _facts(found: Inspection) -> Iterator[tuple[str, Any]]:
    yield "made from", found.model
    yield "recipe", f"{found.recipe} ({found.target})"
    yield "size", f"{size(found.bytes)}, {found.bits:.2f} bits a parameter with scales"
    yield "checksums", f"all {found.verified} files verified"
    named = found.prefix_tokens or found.prefix
    yield "prefix", f"{len(found.prefix)}: {', '.join(repr(token) for token in named)}" if found.prefix else "none"
    yield "fused into weights", ", ".join(found.fused) or "none"
    yield "computed online", ", ".join(found.online) or "none"
    recent = f", the latest {found.kv['recent']} tokens in full precision" if found.kv.get("recent") else ""
    yield "KV cache", ("as computed" if found.kv["bits"] == 16 else f"{found.kv['bits']} bits") + recent
    for note in found.notes:
        yield "note", note


def _part(part: Part) -> tuple[Any, ...]:
    inputs = part.scheme.inputs + (", rotated" if part.scheme.rotated else "")
    shares = (f"{part.parameter_share:.2%}", f"{part.multiply_add_share:.2%}")
    return (", ".join(part.kinds), part.modules, part.scheme.weights, inputs, f"{part.bits:.2f}", *shares)
