"""peers.md: rows by what they may be compared with, ours first, and what can be read in them."""

from __future__ import annotations

from eval.runs import Row

OURS = {
    "W8A8": ("W8A8 static", "W8A8 dynamic (portable)"),
    "W4A16": ("W4A16 groups (portable)", "W4A16 per channel (portable)"),
    "W4A8": ("W4A8KV4 static",),
    "W4A4": ("W4A4KV4 static", "W4A4KV4 dynamic"),
}
COLUMNS = (
    "bits", "tool", "setting", "perplexity", "KL", "top-1", "size", "time", "loaded by", "where the setting is from",
)  # fmt: skip
READING = """\
Not comparable: sinkquant's rows of W4A8 and W4A4 also keep keys and values in 4 bits; the peers leave them in float
where the setting does not say otherwise. A static row rounds with ranges fixed beforehand, a dynamic one measures every
token first, which is easier and costs time when running; groups of weights are easier than whole channels, and cost
bytes. The peers were given float32 models, so what they leave alone is stored in float32, ours as the model had it.
Time holds what the tool does by itself: sinkquant proves its checkpoint, auto-round is run with its short recipe
because its default one takes hours on two cores. All ran on a CPU: what fails here may work on a GPU. No setting was
tuned for a peer; sinkquant's recipes were developed with this model and this text in sight, which favours them."""


def markdown(rows: list[Row], ours: list[Row]) -> str:
    """The table of what was measured so far. `ours`: rows of eval.recipes for the same model."""
    own = [row for row in ours if row["kind"] == "recipe" and row["seed"] == 0]
    measured = [row for row in rows if "failure" not in row]
    lines = [
        "# The same model, text and scoring for what users would pick today", "",
        "| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|",
    ]  # fmt: skip
    if measured:
        lines.append(f"| 16 | none | full precision | {measured[0]['baseline_perplexity']:.2f} |" + " |" * 6)
    for group, names in OURS.items():
        lines += [_our_line(group, row) for name in names for row in own if row["setting"] == name]
        lines += [_line(row) for row in rows if row["group"] == group]
    lines += [
        "", "Perplexity and KL (nats a token) against full precision on the same tokens; size is that of the weight "
        "files; time is that of quantizing, loading and saving included, with the threads in brackets.",
    ]  # fmt: skip
    lines += _list("What failed", [_failure(row) for row in rows if "failure" in row])
    lines += _list("What our own environment could not load", [_refusal(row) for row in rows if "refused" in row])
    lines += _list("What can be read in it", [*_best(measured, own), *_changed(measured)])
    lines += ["", READING, "", "## How it was measured", "", *_conditions(measured)]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    cells = [row["group"], row["peer"], row["setting"]]
    if "failure" in row:
        kept = f"; {row['in_memory']:.2f} in memory" if "in_memory" in row else ""
        return _join(*cells, f"failed to {row['step']}{kept}", *[""] * 5, row["source"])
    return _join(*cells, *_figures(row, row["seconds"]), row["loaded_by"], row["source"])


def _our_line(group: str, row: Row) -> str:
    return _join(
        group, "sinkquant", row["setting"], *_figures(row, sum(row["seconds"].values())), "sinkquant", "recipe"
    )


def _figures(row: Row, seconds: float) -> list[str]:
    memory = f" ({row['in_memory']:.2f} in memory)" if "in_memory" in row else ""
    return [
        f"{_number(row['result_perplexity'])}{memory}", f"{row['kl']:.4f}", f"{row['top1_agreement']:.1%}",
        f"{row['bytes'] / 1e6:.1f} MB", f"{seconds:.0f} s ({row.get('threads', '?')})",
    ]  # fmt: skip


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 1e6 else f"{value:.1e}"


def _join(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _list(title: str, items: list[str]) -> list[str]:
    return ["", f"## {title}", "", *items] if items else []


def _failure(row: Row) -> str:
    return f"- {row['peer']}, {row['group']}, {row['setting']}, failed to {row['step']}: {row['failure']}"


def _refusal(row: Row) -> str:
    return f"- {row['peer']}, {row['group']}, {row['setting']}: {row['refused']}"


def _best(measured: list[Row], own: list[Row]) -> list[str]:
    """The best peer of every group beside our best."""
    told = []
    for group, names in OURS.items():
        theirs = [row for row in measured if row["group"] == group]
        mine = [row for row in own if row["setting"] in names]
        if theirs and mine:
            t, m = (min(rows, key=lambda row: row["result_perplexity"]) for rows in (theirs, mine))
            told.append(
                f"- {group}: the best peer as loaded is {t['peer']} ({t['setting']}) with "
                f"{_number(t['result_perplexity'])}; sinkquant's best is {m['setting']} with "
                f"{_number(m['result_perplexity'])}."
            )
    return told


def _changed(measured: list[Row], tolerance: float = 0.01) -> list[str]:
    """Checkpoints that are another model than the one that was quantized."""
    return [
        f"- {row['peer']}, {row['setting']}: the checkpoint is not what was quantized: {row['in_memory']:.2f} in "
        f"memory, {_number(row['result_perplexity'])} once loaded."
        for row in measured
        if "in_memory" in row and abs(row["result_perplexity"] / row["in_memory"] - 1) > tolerance
    ]


def _conditions(measured: list[Row]) -> list[str]:
    """Text, calibration and versions; equal sentences once."""
    told = {
        f"- {row['peer']}: {row['tokens']} scored tokens of {row['text']} in {row['windows']} windows of "
        f"{row['window']}, BOS {row['bos']}; calibrated, where the setting calibrates, on {row['calibration']}; "
        f"quantized with {', '.join(f'{name} {value}' for name, value in row['versions'].items())}."
        for row in measured
    }
    return sorted(told)
