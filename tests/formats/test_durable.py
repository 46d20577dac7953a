"""A file is replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from sinkquant.formats import durable
from sinkquant.formats.durable import replace_file


@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("kind", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_leaves_the_old_file(
    kind: BaseException, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")

    def fail(*_: object) -> None:
        raise kind

    monkeypatch.setattr(durable.os, call, fail)
    with pytest.raises(type(kind)):
        replace_file(page, b"new")
    assert page.read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    page, link = tmp_path / "page.html", tmp_path / "link"
    replace_file(page, b"first")
    (tmp_path / "plain").touch()
    assert page.stat().st_mode == (tmp_path / "plain").stat().st_mode
    page.chmod(0o640)
    link.symlink_to(page)
    replace_file(link, b"new")
    assert page.read_bytes() == b"new"
    assert page.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    replace_file(pipe, b"page")
    reader.join(10)
    assert heard == [b"page"]
    assert pipe.is_fifo()
