"""Text that every machine has: the documentation inside the running Python, in two halves that share no paragraph.

The language reference comes from `pydoc_data.topics`, the rest from the docstrings of the standard library's modules,
read from their source with `ast`, so that none of them is run.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import sysconfig
from collections.abc import Generator, Iterator
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path

from sinkquant.errors import unknown

SPLITS = ("calibration", "evaluation")


def python_docs(split: str = "calibration") -> Generator[str, None, None]:
    """Yield the documents of one half, each ending in a blank line; the same Python version gives the same text.

    A document belongs to one half by the hash of its name. The reference repeats itself (`compound` holds `if`, `for`,
    …), so a paragraph is kept only where it stands first: none occurs twice, in one half or across both.

    Raises UsageError for a split other than 'calibration' or 'evaluation'.
    """
    if split not in SPLITS:
        raise unknown("split of python-docs", split, SPLITS)
    seen: set[str] = set()
    for name, text in _documents():
        fresh = []
        for paragraph in re.split(r"\n\s*\n", text):
            key = " ".join(paragraph.split())
            if key and key not in seen:
                seen.add(key)
                fresh.append(paragraph.rstrip())
        if fresh and _split_of(name) == split:
            yield "\n\n".join(fresh) + "\n\n"


evaluation_docs = partial(python_docs, "evaluation")


def _split_of(name: str) -> str:
    return SPLITS[sha256(name.encode()).digest()[0] % 2]


def _documents() -> Iterator[tuple[str, str]]:
    """(name, text) of every topic, then of every module that is written in Python, sorted by name."""
    try:
        topics: dict[str, str] = import_module("pydoc_data.topics").topics
    except ImportError:  # slim Python builds leave it out
        topics = {}
    yield from sorted(topics.items())
    folder = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names):
        for path in (folder / f"{name}.py", folder / name / "__init__.py"):
            if path.is_file():
                yield name, "\n\n".join(_docstrings(path.read_text(encoding="utf-8")))


def _docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module and of all that it defines, dedented."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield inspect.cleandoc(ast.get_docstring(node) or "")
