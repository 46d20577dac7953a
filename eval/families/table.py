"""What was measured, as Markdown: counts, the table, the sentences of those that are not ok, how it was measured."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from eval.runs import Row

GOOD = ("ok", "refused")
SAID = (
    "Random weights, one configuration a family (width 64, four layers; `eval/families/configs.py`), BOS planted "
    "as a sink; 2 × 64 tokens of invented words, logits compared on 48; every checkpoint was loaded again, wrote "
    "four tokens with and without a cache, and was given to stock transformers."
)


def markdown(rows: Sequence[Row], steps: Sequence[str]) -> str:
    """The whole page; `steps` are the columns."""
    families: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        families[row["family"]][row["recipe"]] = row
    built = {name: found for name, found in sorted(families.items()) if "build" not in found}
    lines = ["# Families", "", *_counts(built, families, steps), "", *_table(built, steps), "", *sentences(rows)]
    left = [f"`{name}` ({found['build']['says']})" for name, found in sorted(families.items()) if "build" in found]
    lines += ["", "## Not built", "", *(f"- {sentence}" for sentence in left), "", "## How it was measured", ""]
    return "\n".join([*lines, *conditions(rows)]) + "\n"


def _counts(built: dict[str, dict[str, Row]], families: dict[str, dict[str, Row]], steps: Sequence[str]) -> list[str]:
    counted = {step: Counter(found[step]["status"] for found in built.values() if step in found) for step in steps}
    statuses = sorted({status for counter in counted.values() for status in counter})
    whole = [found for found in built.values() if all(found.get(s, {}).get("status") == "ok" for s in steps)]
    clean = [found for found in built.values() if all(found.get(s, {}).get("status") in GOOD for s in steps)]
    lines = [
        f"{len(families)} types, {len(built)} built; **{len(whole)} work in every step**, {len(clean) - len(whole)} "
        f"more are refused before the work where they do not, {len(built) - len(clean)} have a fault.", "",
        "| step | " + " | ".join(statuses) + " |", "|---" * (len(statuses) + 1) + "|",
    ]  # fmt: skip
    return lines + [f"| {s} | " + " | ".join(str(counted[s][status]) for status in statuses) + " |" for s in steps]


def _table(built: dict[str, dict[str, Row]], steps: Sequence[str]) -> list[str]:
    head = [
        "Where a step works: error of the logits relative to their spread; then the share of the blocks' weights that "
        "stay in float, where any does; P: with a prefix; ≈: stock transformers equal up to float rounding.", "",
        "| family | " + " | ".join(steps) + " |", "|---" * (len(steps) + 1) + "|",
    ]  # fmt: skip
    return head + [f"| {n} | " + " | ".join(_cell(found.get(s)) for s in steps) + " |" for n, found in built.items()]


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    if row["status"] != "ok":
        return f"**{row['status']}**" if row["status"] not in GOOD else str(row["status"])
    if row["recipe"] == "detect":
        return "ok" + (" P" if row["prefix"] else "")
    share = row.get("float_share")
    return (
        f"{row['error']:.3f}"
        + (f", {share:.0%} float" if share else "")
        + (" P" if row["prefix"] else "")
        + (" ≈" if row.get("stock") == "close" else "")
    )


def sentences(rows: Sequence[Row], head: str = "## What was said") -> list[str]:
    """Every sentence once, with what it is said of."""
    said: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["status"] not in ("ok", "not built"):
            said[row["status"], row["says"]][row["family"]].append(row["recipe"])
    lines = [head, ""]
    for (status, says), where in sorted(said.items(), key=lambda item: (item[0][0], -len(item[1]))):
        names = ", ".join(f"{family} ({', '.join(steps)})" for family, steps in sorted(where.items()))
        lines.append(f"- **{status}**: {says} — {names}")
    return lines


def conditions(rows: Sequence[Row], said: str = SAID) -> list[str]:
    """How it was measured: what is `said`, versions, and how many states of the code."""
    versions = sorted({", ".join(f"{name} {v}" for name, v in row["versions"].items()) for row in rows})
    states = len({row["code"] for row in rows})
    return [f"{said} {'; '.join(versions)}." + ("" if states == 1 else f" Rows of {states} states of the code.")]
