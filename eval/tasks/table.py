"""The rows of all tasks as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from eval.runs import RESULTS, Row

FILE = RESULTS / "tasks.json"
SHARES = ("accuracy", "agreement", "neighbours", "same_output", "exact_match", "word_errors")
WORDS = {
    "kl": "KL, nats", "agreement": "same first choice", "accuracy": "top-1", "cosine": "cosine, mean",
    "low_cosine": "cosine, 1st percentile", "neighbours": "same nearest neighbour", "same_output": "same output",
    "exact_match": "right",
    "word_errors": "word error rate", "image_gap": "gap to another image, nats",
}  # fmt: skip


def table(rows: list[Row]) -> str:
    """A section a subject, in the order in which subjects were measured first."""
    subjects = dict.fromkeys(row["subject"] for row in rows)
    sections = [_section(name, [row for row in rows if row["subject"] == name]) for name in subjects]
    head = "# Results by task\n\nMeasured by `python -m eval.tasks`: every row against the float model, in float32.\n"
    return "\n".join([head, *sections])


def _section(name: str, rows: Sequence[Row]) -> str:
    metrics = list(dict.fromkeys(metric for row in rows for metric in row["figures"]))
    columns = ["", *(WORDS.get(metric, metric.replace("_", " ")) for metric in metrics), "weights", "seconds"]
    lines = [f"## {name}", "", rows[0]["about"], "", _line(columns), _line(["---"] * len(columns))]
    floats = {m: row["figures"][m][0] for row in rows for m in metrics if m in row["figures"]}
    if any(value is not None for value in floats.values()):
        size = f"{rows[0]['baseline_bytes'] / 1e6:.1f} MB"
        lines.append(_line(["float", *(_figure(m, floats.get(m)) for m in metrics), size, ""]))
    for row in rows:
        cells = [_figure(m, row["figures"].get(m, (None, None))[1]) for m in metrics]
        seconds = f"{sum(row['seconds'].values()):.0f}"
        lines.append(_line([row["setting"], *cells, f"{row['bytes'] / 1e6:.1f} MB", seconds]))
    goals = next((row["goals"] for row in rows if row["goals"]), {})
    for place, what in enumerate(("goal", "hoped for")):
        if goals:
            lines.append(_line([what, *(_figure(m, goals[m][place] if m in goals else None) for m in metrics), "", ""]))
    row = rows[0]
    versions = ", ".join(f"{package} {version}" for package, version in row["versions"].items())
    lines += [
        "",
        f"Calibrated on {row['calibration']}, measured on {row['places']} places of {row['samples']} samples of "
        f"{row['data']}; {versions}.",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _figure(metric: str, value: float | None) -> str:
    if value is None:
        return "–"
    if metric in SHARES:
        return f"{value:.1%}"
    return f"{value:.4f}" if "cosine" in metric else f"{value:.4g}"
