"""Renames that cannot lose anything: to a free name only, or two names in one step.

Python's `os.rename` replaces what is at the new name. Linux (renameat2, man 2 rename) and macOS (renamex_np) have
calls that do not; where the system or the file system lacks them, each function says what it does.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

LACKING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_HERE = -100  # AT_FDCWD: relative names begin at the working folder
_FREE_ONLY, _EXCHANGE = 1, 2  # Linux; macOS has 4 and 2


def rename_to_free(source: Path, target: Path) -> None:
    """Rename; raises FileExistsError where anything is at `target`. The fallback can replace an empty folder."""
    try:
        _rename(source, target, _FREE_ONLY)
    except OSError as error:
        if error.errno not in LACKING:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        os.rename(source, target)


def exchange(first: Path, second: Path) -> bool:
    """Let two folders change places in one step; False, with nothing done, where the file system cannot."""
    try:
        _rename(first, second, _EXCHANGE)
    except OSError as error:
        if error.errno in LACKING:
            return False
        raise
    return True


def _rename(source: Path, target: Path, flag: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(source), os.fsencode(target)
    if hasattr(library, "renameat2"):
        failed = library.renameat2(_HERE, names[0], _HERE, names[1], flag)
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, 4 if flag == _FREE_ONLY else 2)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(source), None, str(target))
