"""Whatever stands in config.json or in a header, with the right checksum: an answer, or one sentence with the file."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import sinkquant
from sinkquant.cli.describe_checkpoint import checkpoint_sheets
from sinkquant.formats.manifest import write_manifest
from sinkquant.report.table import Sheet

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "v0.1.0"
KINDS = ["sink-aware", "portable"]

VALUES: list[Any] = [
    None,
    "x",
    "\x1b[2J",
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    10**30,
    True,
    [],
    {},
    [None],
    {"a": 1},
]
MISSING = object()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value; of a list the first two."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


def cases_of(config: dict[str, Any]) -> list[tuple[tuple[Any, ...], Any]]:
    """Every place with every other value; the one that `seal` writes into stays an object."""
    found = ((path, value) for path in places(config) for value in (MISSING, *VALUES))
    return [(path, value) for path, value in found if path != ("sinkquant",) or value in (MISSING, None, {})]


def changed(content: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """`content` with another value at `path`, or none."""
    content = deepcopy(content)
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def seal(folder: Path) -> None:
    write_manifest(folder, json.loads((folder / "sinkquant.json").read_text()))


def shown(folder: Path) -> list[Sheet]:
    """What the command prints."""
    return checkpoint_sheets(sinkquant.inspect(folder))


def answer_or_sentence(check: Callable[[Path], object], folder: Path, named: str = "") -> None:
    try:
        check(folder)
    except sinkquant.SinkquantError as error:
        said = str(error)
        assert named in said and said.endswith(".") and said.isprintable() and len(said) < 700, said


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_the_configuration(kind: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / kind, tmp_path / kind)
    config = json.loads((folder / "config.json").read_text())
    cases = cases_of(config)
    assert len(cases) > 500
    for path, value in random.Random(0).sample(cases, 150):
        (folder / "config.json").write_text(json.dumps(changed(config, path, value)))
        seal(folder)
        answer_or_sentence(shown, folder, "config.json")


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a safetensors file."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(path: Path, header: bytes, tensors: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + tensors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("execution", ["reference", "auto"])
def test_loading_after_every_value_of_the_configuration(kind: str, execution: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / kind, tmp_path / kind)
    config = json.loads((folder / "config.json").read_text())
    # A model of 10**30 blocks would be built until memory ends.
    cases = [(path, value) for path, value in cases_of(config) if value != 10**30]
    for path, value in random.Random(0).sample(cases, 30):
        (folder / "config.json").write_text(json.dumps(changed(config, path, value)))
        seal(folder)
        answer_or_sentence(partial(sinkquant.load, execution=execution), folder)


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_a_header(kind: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / kind, tmp_path / kind)
    path = folder / "model.safetensors"
    header, tensors = split(path)
    cases = [(place, value) for place in places(header) for value in (MISSING, *VALUES)]
    for place, value in random.Random(0).sample(cases, 100):
        join(path, json.dumps(changed(header, place, value)).encode(), tensors)
        seal(folder)
        answer_or_sentence(shown, folder, str(folder))


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "a pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "cut in its length": lambda content: content[:5],
    "cut in its header": lambda content: content[:50],
    "cut in its tensors": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "an endless header": lambda content: b"\xff" * 8 + content[8:],
    "no UTF-8": lambda content: content[:8] + b"\xff" + content[9:],
    "a list": lambda content: struct.pack("<Q", 2) + b"[]",
    "a number": lambda content: struct.pack("<Q", 8) + b"1       ",
    "deep": lambda content: struct.pack("<Q", 400_000) + b"[" * 200_000 + b"]" * 200_000,
    "no tensors": lambda content: struct.pack("<Q", 8) + b"{}      ",
}


@pytest.mark.parametrize("name", HEADERS)
def test_no_safetensors_file(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "sink-aware", tmp_path / "broken")
    path = folder / "model.safetensors"
    path.write_bytes(HEADERS[name](path.read_bytes()))
    seal(folder)
    for check in (sinkquant.inspect, sinkquant.load):
        with pytest.raises(sinkquant.SinkquantError) as caught:
            check(folder)
        said = str(caught.value)
        assert (str(folder) in said or "lacks model.embed_tokens.weight" in said) and said.isprintable()
