"""What was measured, as Markdown: counts, a table a task, the sentences of those that are not ok."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from eval.families.table import GOOD, conditions, sentences
from eval.runs import Row


def markdown(rows: Sequence[Row], steps: Sequence[str]) -> str:
    """The whole page; `steps` are the columns."""
    tasks: dict[str, dict[str, dict[str, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        tasks[row["task"]][row["family"]][row["recipe"]] = row
    lines = [
        "# Families of the other tasks", "",
        "| task | types measured | built | every step works | refused before the work | faults |", "|---" * 6 + "|",
        *(_counts(task, found, steps) for task, found in tasks.items()), "",
        "Where a step works: error of the answers relative to their spread over samples.", "",
    ]  # fmt: skip
    for task, found in tasks.items():
        built = {name: one for name, one in found.items() if "build" not in one}
        lines += [f"## {task}", "", "| family | " + " | ".join(steps) + " |", "|---" * (len(steps) + 1) + "|"]
        lines += [f"| {name} | " + " | ".join(_cell(one.get(s)) for s in steps) + " |" for name, one in built.items()]
        lines += ["", *sentences([row for one in built.values() for row in one.values()], "### What was said"), ""]
        left = [f"- `{name}` ({one['build']['says']})" for name, one in found.items() if "build" in one]
        lines += ["### Not built", "", *left, ""] if left else []
    lines += ["## How it was measured", "", *conditions(rows, SAID)]
    return "\n".join(lines) + "\n"


SAID = (
    "Random weights, one configuration a family (`eval/zoo/configs.py`), one hidden unit planted as a spike; invented "
    "words, clouds of colour of mixed sizes and modes. Every checkpoint was loaded again, held bit for bit against its "
    "proof, evaluated, inspected, and one a family verified in a process of its own. "
    "Families without a row were not measured."
)


def _counts(task: str, found: dict[str, dict[str, Row]], steps: Sequence[str]) -> str:
    built = [one for one in found.values() if "build" not in one]
    kinds = Counter(
        "ok" if statuses == {"ok"} else "refused" if statuses <= set(GOOD) else "fault"
        for statuses in ({row["status"] for row in one.values()} for one in built)
    )
    return f"| {task} | {len(found)} | {len(built)} | {kinds['ok']} | {kinds['refused']} | {kinds['fault']} |"


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    if row["status"] != "ok":
        return f"**{row['status']}**" if row["status"] not in GOOD else str(row["status"])
    return f"{row['error']:.3f}" if "error" in row else "ok"
