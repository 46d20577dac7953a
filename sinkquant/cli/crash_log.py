"""What a report of an unexpected error needs, in one file."""

from __future__ import annotations

import platform
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path

from sinkquant.evaluation.versions import versions
from sinkquant.formats.cache import cache_root


def write_log(error: BaseException) -> Path | None:
    """A new file with the command, the versions and the traceback: in the cache folder, or the temporary one where
    that cannot be written; None where neither can."""
    facts = {"command": shlex.join(sys.argv), "platform": platform.platform()} | versions()
    lines = [f"{name}: {value}\n" for name, value in facts.items()]
    text = "".join([*lines, "\n", *traceback.format_exception(error)])
    for folder in (cache_root() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", prefix=time.strftime("sinkquant-%Y%m%d-%H%M%S-"), suffix=".log", dir=folder, delete=False,
                encoding="utf-8", errors="backslashreplace",
            ) as file:  # fmt: skip
                file.write(text)
            return Path(file.name)
        except OSError:
            continue
    return None
