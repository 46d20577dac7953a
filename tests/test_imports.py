"""Folders import in the order of docs/architecture.md, and modules import each other in no circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sinkquant"
ABOVE_ALL = {"__init__", "__main__"}  # the public names, imported when they are asked for
UPWARD = {
    ("integrations/optimum_register.py", "sinkquant.cli.main"): "optimum's command is ours",
}


def table() -> list[str]:
    """Folders and files of the package from top to bottom."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(\w+)(?:/|\.py)` \|", text, re.MULTILINE)


def files() -> dict[str, Path]:
    """Every module's name and file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def for_types(tree: ast.AST) -> set[ast.AST]:
    """What stands under `if TYPE_CHECKING`."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    return {inner for block in blocks for inner in ast.walk(block)}


def imports(path: Path, *, types: bool) -> Iterator[str]:
    """Modules of the package that a file imports, in functions too; with `types` also those for annotations alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out, known = set() if types else for_types(tree), files()
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.ImportFrom):
            folder = path.relative_to(ROOT).parts[:-1]
            above = folder[: len(folder) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            names = [f"{module}.{one.name}" for one in node.names]
        elif isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == PACKAGE.name:
                yield name if name in known else name.rpartition(".")[0]


def upward() -> set[tuple[str, str]]:
    order = {name: place for place, name in enumerate(table())}
    found = set()
    for path in files().values():
        inside = path.relative_to(PACKAGE)
        here = inside.parts[0].removesuffix(".py")
        for name in imports(path, types=True):
            there = name.split(".")[1] if "." in name else None
            if here not in ABOVE_ALL and there is not None and order[there] < order[here]:
                found.add((inside.as_posix(), name))
    return found


def test_the_table_names_every_folder() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(table()) == sorted(there - ABOVE_ALL)


def test_a_folder_imports_only_those_below_it() -> None:
    assert upward() == set(UPWARD)


def test_no_circles() -> None:
    graph = {name: set(imports(path, types=False)) - {name, PACKAGE.name} for name, path in files().items()}
    del graph[PACKAGE.name]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle: {' <- '.join(error.args[1])}") from None
