"""Finished blocks of a run that may be interrupted, so that the same command goes on where it stopped.

The store lies in the user's cache folder under a key of everything that the result depends on, never beside the output.
Activations are stored too: computing them again need not give the same bits. A store is a convenience: where it is
damaged, taken or cannot be written, the run goes on without it and says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sinkquant.formats.durable import replace_file, sync
from sinkquant.formats.lock import lock
from sinkquant.formats.manifest import checksum
from sinkquant.formats.unfinished import drop_old, unfinished_root

HIDDEN = "hidden.safetensors"
LOCK, STATE = "lock", "state.json"
REMEDY = "set SINKQUANT_CACHE to a folder with room that can be written"

logger = logging.getLogger(__name__)


class ResumeStore:
    """One unfinished run. A block counts as finished once its outputs are stored as well.

    `files` has the checksum of every file that counts; what else lies there does not.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        """`facts`: JSON-ready description of model, recipe, text, prefix, code and machine."""
        self._folder: Path | None = None  # None: nothing is kept
        self._lock: FileIO | None = None
        self._blocks, self._files = 0, dict[str, str]()
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
        try:
            root = unfinished_root()
            (root / key).mkdir(parents=True, exist_ok=True)
            self._lock = lock(root / key / LOCK)
            drop_old(root)
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
            self._give_up(error)
            return
        if self._lock is None:
            logger.warning("another run of this command is going on: this one keeps nothing to go on from.")
            return
        self._folder = root / key
        self._restore()

    def finished(self) -> int:
        """How many blocks need not be done again."""
        return self._blocks

    def save(self, index: int, block: dict[str, Tensor], facts: dict[str, Any], outputs: list[Tensor]) -> None:
        """Store block `index` (tensors and JSON-ready facts) and its outputs; earlier ones stay valid until all is
        written."""
        hidden = {str(i): t for i, t in enumerate(outputs)}

        def write(folder: Path) -> None:
            names = f"block-{index}.safetensors", f"block-{index}.json", f"{index}-{HIDDEN}"
            for name, tensors in ((names[0], block), (names[2], hidden)):
                save_file({n: t.contiguous() for n, t in tensors.items()}, folder / name)
                sync(folder / name)
            replace_file(folder / names[1], json.dumps(facts).encode())
            past = f"{index - 1}-{HIDDEN}"
            self._count(folder, index + 1, names, without=past)
            (folder / past).unlink(missing_ok=True)

        self._write(write)

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives (JSON-ready), made once: an interrupted run goes on with the same."""
        file = f"{name}.json"
        if self._folder is not None and file in self._files:
            return json.loads((self._folder / file).read_bytes())
        text = json.dumps(make())

        def write(folder: Path) -> None:
            replace_file(folder / file, text.encode())
            self._count(folder, self._blocks, (file,))

        self._write(write)
        return json.loads(text)

    def block(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and facts of a finished block."""
        assert self._folder is not None
        facts = json.loads((self._folder / f"block-{index}.json").read_bytes())
        return load_file(self._folder / f"block-{index}.safetensors"), facts

    def outputs(self) -> list[Tensor]:
        """The outputs of the last finished block, batch by batch."""
        assert self._folder is not None
        stored = load_file(self._folder / f"{self._blocks - 1}-{HIDDEN}")
        return [stored[str(i)] for i in range(len(stored))]

    def clear(self) -> None:
        """Forget the run: it is complete."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def close(self) -> None:
        """Let another run go on from here."""
        if self._lock is not None:
            self._lock.close()

    def _restore(self) -> None:
        """Take what an earlier run left, if all of it is as it was written; else begin anew."""
        assert self._folder is not None
        state = self._folder / STATE
        if not state.exists():
            return
        try:
            text, _, digest = state.read_bytes().partition(b"\n")
            if hashlib.sha256(text).hexdigest().encode() != digest:
                raise ValueError(STATE)
            stored = json.loads(text)
            for name, expected in stored["files"].items():
                if checksum(self._folder / name) != expected:
                    raise ValueError(name)
            self._blocks, self._files = stored["blocks"], stored["files"]
        except (OSError, ValueError):
            logger.warning("what an interrupted run left in %s is damaged: this run begins anew.", self._folder)
            state.unlink(missing_ok=True)

    def _count(self, folder: Path, blocks: int, names: tuple[str, ...], without: str = "") -> None:
        """From now on the files `names` count, and `blocks` blocks do."""
        files = self._files | {name: checksum(folder / name) for name in names}
        files.pop(without, None)
        text = json.dumps({"blocks": blocks, "files": files}).encode()
        sync(folder)
        replace_file(folder / STATE, text + b"\n" + hashlib.sha256(text).hexdigest().encode())
        self._blocks, self._files = blocks, files

    def _write(self, write: Callable[[Path], None]) -> None:
        """Do `write`, or go on without the store where its disk refuses."""
        if self._folder is None:
            return
        try:
            write(self._folder)
        except (OSError, SafetensorError) as error:
            self.clear()
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        logger.warning("this run cannot be gone on with if it is interrupted (%s): %s.", reason, REMEDY)


class Unfinished:
    """The stores that one command opens: free for others at its end, and gone once its checkpoint is in place."""

    def __init__(self) -> None:
        self._stores: dict[str, ResumeStore] = {}

    def open(self, facts: dict[str, Any]) -> ResumeStore:
        """The store of a run with these facts; the same one again for the same facts."""
        key = json.dumps(facts, sort_keys=True, default=str)
        if key not in self._stores:
            self._stores[key] = ResumeStore(facts)
        return self._stores[key]

    def clear(self) -> None:
        """Forget them all."""
        for store in self._stores.values():
            store.clear()

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for store in self._stores.values():
            store.close()
