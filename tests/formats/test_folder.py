"""What an output may replace, and that nothing else is lost, whatever happens during the run."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.formats import folder as folders
from sinkquant.formats.folder import claim
from sinkquant.formats.manifest import write_manifest
from sinkquant.formats.work import work_folder


def checkpoint(folder: Path, content: str = "old") -> Path:
    """A folder with what a checkpoint has by name."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "sinkquant", "sinkquant": {}}')
    (folder / "model.safetensors").write_text(content)
    write_manifest(folder, {})
    return folder


def publish(output: Path | str, source: Path | None = None, *, overwrite: bool = True) -> Path:
    with claim(output, overwrite=overwrite, source=source) as claimed:
        return claimed.publish(checkpoint(claimed.new, "new"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def damage(name: str, text: str | None) -> Callable[[Path], None]:
    """Give a file of the checkpoint another text, or none at all."""

    def do(out: Path) -> None:
        (out / name).unlink(missing_ok=True)
        if text is not None:
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text(text)

    return do


REPLACED = {
    "empty": lambda out: [path.unlink() for path in out.iterdir()],
    "complete": lambda out: None,
    "changed": damage("model.safetensors", "changed"),
    "lacks a file": damage("model.safetensors", None),
    "manifest cut": damage("sinkquant.json", '{"format": 1, "fil'),
    "manifest empty": damage("sinkquant.json", ""),
    "manifest without files": damage("sinkquant.json", "{}"),
    "manifest and config broken": lambda out: (damage("sinkquant.json", "")(out), damage("config.json", "{")(out)),
}


@pytest.mark.parametrize("made", REPLACED)
def test_a_checkpoint_is_replaced_complete_or_broken(made: str, tmp_path: Path) -> None:
    out = checkpoint(tmp_path / "out")
    REPLACED[made](out)
    with pytest.raises(UsageError, match="exists and is kept"):
        publish(out, overwrite=False)
    assert publish(out) == out
    assert (out / "model.safetensors").read_text() == "new"
    assert os.listdir(tmp_path) == ["out"]


KEPT = {
    "a text beside it": damage("thesis.txt", "precious"),
    "a hidden file": damage(".env", "precious"),
    "a folder": damage("notes/today.md", "precious"),
    "an empty folder": lambda out: (out / "notes").mkdir(),
    "a link to a folder": lambda out: (out / "model-link").symlink_to(out.parent),
    "no manifest": damage("sinkquant.json", None),
    "a broken manifest and a text": lambda out: (damage("sinkquant.json", "")(out), damage("thesis.txt", "")(out)),
    "a broken manifest and a float model": lambda out: (
        damage("sinkquant.json", "{")(out), damage("config.json", '{"model_type": "llama"}')(out)
    ),
    "a broken manifest and a folder": lambda out: (damage("sinkquant.json", "{")(out), (out / "vocab").mkdir()),
}  # fmt: skip


@pytest.mark.parametrize("made", KEPT)
def test_what_is_no_checkpoint_is_kept(made: str, tmp_path: Path) -> None:
    out = checkpoint(tmp_path / "out")
    KEPT[made](out)
    before = content(out)
    with pytest.raises(UsageError, match="is kept, it"):
        publish(out)
    assert content(out) == before
    assert os.listdir(tmp_path) == ["out"]


SPELLINGS = {
    "plain": str,
    "slash": lambda out: f"{out}/",
    "dot": lambda out: f"{out}/.",
    "up and down": lambda out: f"{out}/../{out.name}",
    "relative": lambda out: os.path.relpath(out),
    "link": lambda out: link(out, out),
    "link to the folder above": lambda out: f"{link(out, out.parent)}/{out.name}",
}


def link(beside: Path, to: Path) -> Path:
    path = beside.parent / "link"
    path.symlink_to(to)
    return path


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("what", ["model", "holds model", "in model", "home", "holds home", "work", "holds work"])
def test_protected_folders_are_kept(what: str, spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold a checkpoint or nothing, so that only their place protects them."""
    out = tmp_path / "out"
    inside = out if not what.startswith("holds") else out / "model.safetensors/inside"
    checkpoint(out)
    if inside != out:
        (out / "model.safetensors").unlink()
        inside.mkdir(parents=True)
        monkeypatch.setattr("sinkquant.formats.place.why_kept", lambda _: None)
    source = {"model": inside, "in model": tmp_path}.get(what.split()[-1] if what != "in model" else what)
    monkeypatch.setenv("HOME", str(inside if "home" in what else tmp_path / "elsewhere"))
    before = content(out)
    with chdir(inside if "work" in what else "/"), pytest.raises(UsageError, match=r"is kept, it (is|holds|lies in)"):
        publish(SPELLINGS[spelling](out), source)
    assert content(out) == before


def test_a_mount_point_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a name"
    out.mkdir()
    mounts = tmp_path / "mounts"
    mounts.write_bytes(b"1 2 0:3 / " + os.fsencode(out).replace(b" ", rb"\040") + b" rw - ext4 /dev/x rw\n")
    monkeypatch.setattr("sinkquant.formats.place.MOUNTS", mounts)
    with pytest.raises(UsageError, match="it is a mount point"):
        publish(out)
    assert out.is_dir()


REFUSED = {
    "below a file": lambda tmp: file(tmp / "file") / "x",
    "below a folder below a file": lambda tmp: file(tmp / "file") / "x/y",
    "a file": lambda tmp: file(tmp / "file"),
    "a dangling link": lambda tmp: dangling(tmp / "link"),
    "a loop": lambda tmp: dangling(tmp / "link", tmp / "link"),
    "a name that is too long": lambda tmp: tmp / ("x" * 256),
    "a path that is too long": lambda tmp: tmp.joinpath(*["x" * 200] * 20),
    "a line break": lambda tmp: tmp / "a\nb",
    "an escape sequence": lambda tmp: tmp / "a\x1b[31mb",
    "a surrogate": lambda tmp: tmp / "a\udcffb",
    "a device": lambda tmp: Path("/dev/null/out"),
    "where nobody can write": lambda tmp: Path("/proc/out"),
    "the root": lambda tmp: Path("/"),
    "nothing": lambda tmp: "",
}  # fmt: skip


def file(path: Path) -> Path:
    path.write_text("precious")
    return path


def dangling(path: Path, to: Path | None = None) -> Path:
    path.symlink_to(to or path.with_name("nowhere"))
    return path


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", REFUSED)
def test_places_that_cannot_work_are_refused_before_the_work(place: str, overwrite: bool, tmp_path: Path) -> None:
    output = REFUSED[place](tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(UsageError), claim(output, overwrite=overwrite):
        pytest.fail("the work began")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("call", ["fsync", "mkdir"])
def test_a_full_disk_is_noticed_before_the_work(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(SinkquantError, match=r"no space left on device.*: free some space"), claim(tmp_path / "out"):
        pytest.fail("the work began")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("length", [200, 201, 250, 255])
def test_the_longest_names_work(length: int, tmp_path: Path) -> None:
    out = tmp_path / ("x" * length)
    assert publish(out) == publish(out) == out
    assert os.listdir(tmp_path) == [out.name]


def test_new_parents_are_made_and_go_with_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claim(tmp_path / "a/b/out"):
        _ = 1 // 0
    assert os.listdir(tmp_path) == []
    assert publish(tmp_path / "a/b/out") == tmp_path / "a/b/out"


def appear_folder(out: Path) -> None:
    out.mkdir()
    (out / "thesis.txt").write_text("precious")


APPEARS = {
    "folder": appear_folder,
    "empty folder": Path.mkdir,
    "file": lambda out: out.write_text("precious"),
    "link": lambda out: out.symlink_to("/"),
    "checkpoint": checkpoint,
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("what", APPEARS)
def test_what_appears_during_the_run_is_kept(what: str, overwrite: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SinkquantError, match=f"is kept: the finished checkpoint is in {out}-3"):  # noqa: SIM117
        with claim(out, overwrite=overwrite) as claimed:
            APPEARS[what](out)
            (tmp_path / "out-2").touch()
            claimed.publish(checkpoint(claimed.new, "new"))
    assert (tmp_path / "out-3/model.safetensors").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["out", "out-2", "out-3"]
    if what == "folder":
        assert content(out) == {"thesis.txt": b"precious"}
    if what == "checkpoint":
        assert (out / "model.safetensors").read_text() == "old"


@pytest.mark.parametrize("swap", [True, False])
def test_what_comes_into_the_old_checkpoint_is_kept(
    swap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = checkpoint(tmp_path / "out")
    real = folders.exchange

    def late(first: Path, second: Path) -> bool:
        if not (out / "thesis.txt").exists() and not (first / "thesis.txt").exists():
            (out / "thesis.txt").write_text("precious")
        return real(first, second)

    with pytest.raises(SinkquantError, match="is kept"), claim(out, overwrite=True) as claimed:
        if swap:
            monkeypatch.setattr(folders, "exchange", late)
        else:
            (out / "thesis.txt").write_text("precious")
        claimed.publish(checkpoint(claimed.new, "new"))
    assert (out / "thesis.txt").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["out", "out-2"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_second_run_to_one_output_is_refused(spelling: str, tmp_path: Path) -> None:
    out = checkpoint(tmp_path / "out")
    with claim(out, overwrite=True) as first:
        with pytest.raises(SinkquantError, match="another run is writing"):
            publish(SPELLINGS[spelling](out))
        assert first.publish(checkpoint(first.new, "new")) == out
    assert publish(out) == out


def test_a_relative_output_means_what_it_meant_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with chdir(tmp_path / "here"), claim("out") as claimed:
        os.chdir("/")
        claimed.publish(checkpoint(claimed.new))
    assert (tmp_path / "here/out/config.json").is_file()


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    with chdir("/"):
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(UsageError, match="name it in full"):
            publish("out")
        assert publish(tmp_path / "out") == tmp_path / "out"


def test_a_parent_that_vanishes_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(SinkquantError, match="was removed or renamed during the run"),
        claim(tmp_path / "a/out") as made,
    ):
        (tmp_path / "a").rename(tmp_path / "b")
        made.new.mkdir()


DIES = """
import os, signal, sys
from pathlib import Path
from unittest import mock
from sinkquant.formats import folder
from sinkquant.formats import rename
from tests.formats.test_folder import checkpoint

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def last(real):
    def call(*arguments):
        real(*arguments)
        die()
    return call

where, out = sys.argv[1], Path(sys.argv[2])
lacking = mock.patch.object(folder, "exchange", lambda *_: False)
patches = {
    "in the export": [mock.patch.object(folder, "sync_tree", die)],
    "before the swap": [mock.patch.object(folder, "exchange", die)],
    "after the swap": [mock.patch.object(folder, "exchange", last(rename.exchange))],
    "before the first rename": [lacking, mock.patch.object(Path, "rename", die)],
    "between the renames": [lacking, mock.patch.object(Path, "rename", last(Path.rename))],
    "after the renames": [lacking, mock.patch.object(folder, "put_back", die)],
}[where]
for patch in patches:
    patch.start()
with folder.claim(out, overwrite=True) as claimed:
    claimed.publish(checkpoint(claimed.new, "new"))
"""
RIGHT = {"in the export": "old", "before the swap": "old", "after the swap": "new"}  # at every moment
LATER = {"before the first rename": "old", "between the renames": "old", "after the renames": "new"}  # restored


@pytest.mark.parametrize("where", RIGHT | LATER)
def test_a_kill_leaves_a_complete_checkpoint_and_the_next_run_cleans_up(where: str, tmp_path: Path) -> None:
    out = checkpoint(tmp_path / "out")
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", DIES, where, out], cwd=root, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()
    assert work_folder(out).is_dir()
    if where in RIGHT:
        assert (out / "model.safetensors").read_text() == RIGHT[where]
    with claim(tmp_path / "other"):  # another output in the same place is enough
        assert (out / "model.safetensors").read_text() == (RIGHT | LATER)[where]
        assert set(content(out)) == set(json.loads((out / "sinkquant.json").read_text())["files"]) | {"sinkquant.json"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_of_that_name_that_is_not_ours_stays(tmp_path: Path) -> None:
    stranger = tmp_path / ".mine.sinkquant"
    stranger.mkdir()
    (stranger / "lock").write_text("precious")
    publish(tmp_path / "out")
    assert (stranger / "lock").read_text() == "precious"
