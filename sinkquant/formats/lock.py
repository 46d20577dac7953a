"""A lock that belongs to a process and goes with it, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from io import FileIO
from pathlib import Path

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


def lock(path: Path) -> FileIO | None:
    """The file `path`, made where it is not there and locked until it is closed; None while another holds it.

    On a file system that has no locks the file's being there is the lock.
    """
    while True:
        file, made = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError as error:
            if error.errno in WITHOUT_LOCKS and made:
                return file
            file.close()
            if error.errno in WITHOUT_LOCKS:
                return None
            raise
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        file.close()  # its holder removed it after it was opened here


def _open(path: Path) -> tuple[FileIO, bool]:
    """The file for reading and writing, and whether it was made."""
    while True:
        try:
            return path.open("x+b", buffering=0), True
        except FileExistsError:
            try:
                return path.open("r+b", buffering=0), False
            except FileNotFoundError:
                continue
