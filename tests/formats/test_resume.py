"""The store of finished blocks: it gives back what was written, or says that it does not, and never costs the run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sinkquant.formats import finished as resume
from sinkquant.formats import unfinished
from sinkquant.formats.finished import Unfinished
from sinkquant.formats.lock import lock

FACTS = {"model": "m"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SINKQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/unfinished"


def interrupted(blocks: int = 2) -> None:
    """A run that was ended after some blocks."""
    with Unfinished() as stores:
        store = stores.open(FACTS)
        store.remember("sensitivity", lambda: {"a": 1.5})
        for i in range(blocks):
            store.save(
                i, {"weight": torch.full((3,), float(i))}, {"scheme": {"bits": i}}, [torch.full((2, 2), i + 0.5)]
            )


def sentences(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_an_interrupted_run_goes_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupted()
    with Unfinished() as stores:
        store = stores.open(FACTS)
        assert stores.open(dict(FACTS)) is store  # two recipes of one command may be the same
        assert store.finished() == 2
        assert store.remember("sensitivity", lambda: pytest.fail("measured again")) == {"a": 1.5}
        for i in range(2):
            tensors, facts = store.block(i)
            assert tensors["weight"].tolist() == [i] * 3
            assert facts == {"scheme": {"bits": i}}
        assert store.outputs()[0].tolist() == [[1.5, 1.5]] * 2
        stores.clear()
    assert list(root.iterdir()) == []
    assert sentences(caplog) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "flipped": flip,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
}
FILES = ["block-0.safetensors", "block-1.json", "1-hidden.safetensors", "sensitivity.json", "state.json"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_store_begins_anew(name: str, damage: str, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupted()
    (run,) = root.iterdir()
    DAMAGE[damage](run / name)
    with Unfinished() as stores:
        assert stores.open(FACTS).finished() == 0
    if (name, damage) != ("state.json", "missing"):  # no block was finished, or so it seems
        (sentence,) = sentences(caplog)
        assert sentence.endswith("is damaged: this run begins anew.")
    caplog.clear()
    interrupted()
    with Unfinished() as stores:
        assert stores.open(FACTS).finished() == 2
    assert sentences(caplog) == []


def test_every_flipped_bit_is_noticed(root: Path) -> None:
    interrupted()
    (run,) = root.iterdir()
    for path in sorted(run.iterdir()):
        content = path.read_bytes()
        for place in range(0, 8 * len(content), 97):
            changed = bytearray(content)
            changed[place // 8] ^= 1 << place % 8
            path.write_bytes(changed)
            state = (run / "state.json").read_bytes()
            with Unfinished() as stores:
                assert stores.open(FACTS).finished() == 0, (path.name, place)
            if path.name != "state.json":
                (run / "state.json").write_bytes(state)
            path.write_bytes(content)


def test_a_second_run_at_the_same_time_keeps_nothing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupted(1)
    with Unfinished() as first:
        first.open(FACTS)
        with Unfinished() as second:
            store = second.open(FACTS)
            assert store.finished() == 0
            store.save(0, {"weight": torch.zeros(1)}, {}, [])
            assert store.remember("sensitivity", lambda: 7) == 7
            second.clear()
        (sentence,) = sentences(caplog)
        assert sentence.startswith("another run of this command is going on")
        assert first.open(FACTS).finished() == 1
    with Unfinished() as again:
        assert again.open(FACTS).finished() == 1


@pytest.mark.parametrize("place", ["/proc/cache", "file/cache"])
def test_a_place_that_cannot_be_written_costs_the_resume_alone(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SINKQUANT_CACHE", str(tmp_path / place))
    with Unfinished() as stores:
        store = stores.open(FACTS)
        store.save(0, {"weight": torch.zeros(1)}, {}, [])
        assert store.remember("sensitivity", lambda: 7) == 7
        assert store.finished() == 0
        stores.clear()
    (sentence,) = sentences(caplog)
    assert sentence.startswith("this run cannot be gone on with if it is interrupted (")
    assert sentence.endswith(resume.REMEDY + ".")


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(resume, "unfinished_root", fail)
    with Unfinished() as stores:
        stores.open(FACTS)
    assert len(sentences(caplog)) == 1


@pytest.mark.parametrize("writer", ["save_file", "replace_file"])
def test_a_full_disk_costs_the_resume_alone_and_is_given_back(
    writer: str, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Unfinished() as stores:
        store = stores.open(FACTS)
        store.save(0, {"weight": torch.zeros(1)}, {}, [])

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(resume, writer, full)
        for i in (1, 2):
            store.save(i, {"weight": torch.zeros(1)}, {}, [])
        assert list(root.iterdir()) == []
    assert len(sentences(caplog)) == 1


def test_a_kill_while_a_block_is_written_leaves_the_one_before(root: Path) -> None:
    code = """
import os, signal, torch
from sinkquant.formats import finished as resume
store = resume.ResumeStore({"model": "m"})
store.save(0, {"weight": torch.zeros(3)}, {}, [torch.zeros(2)])
real, calls = resume.replace_file, []
def die(path, data):
    calls.append(path.name)
    if path.name == "state.json":
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, data)
resume.replace_file = die
store.save(1, {"weight": torch.ones(3)}, {}, [torch.ones(2)])
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with Unfinished() as stores:
        store = stores.open(FACTS)
        assert store.finished() == 1
        assert store.outputs()[0].tolist() == [0, 0]


def test_old_runs_go_away_and_going_ones_stay(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def age(name: str, days: float) -> Path:
        (root / name).mkdir(parents=True)
        (root / name / "lock").touch()
        os.utime(root / name, (time.time() - days * 86400,) * 2)
        return root / name

    for i in range(unfinished.RUNS):
        age(f"new-{i}", i / 100)
    going = age("going", 99)
    age("old", unfinished.DAYS + 1)
    age("one more", 1)
    held = lock(going / "lock")
    assert held is not None
    with held:
        unfinished.drop_old(root)
    assert {path.name for path in root.iterdir()} == {f"new-{i}" for i in range(unfinished.RUNS)} | {"going"}
