"""Finished blocks of a run that may be interrupted, so that the same command goes on where it stopped.

The store lies in the user's cache folder under a key of everything that the result depends on, never beside the output.
Activations are stored too: computing them again need not give the same bits.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sinkquant.checkpoint.cache import cache_root

HIDDEN = "hidden.safetensors"


class ResumeStore:
    """One unfinished run. A block counts as finished once its outputs are stored as well."""

    def __init__(self, facts: dict[str, Any]) -> None:
        """`facts`: JSON-ready description of model, recipe, text, prefix and versions."""
        key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
        self.folder = cache_root() / "unfinished" / key

    def finished(self) -> int:
        """How many blocks need not be done again."""
        marker = self.folder / "finished"
        return int(marker.read_text()) if marker.is_file() else 0

    def save(self, index: int, block: dict[str, Tensor], facts: dict[str, Any], outputs: list[Tensor]) -> None:
        """Store block `index` (tensors and JSON-ready facts) and its outputs; earlier ones stay valid until all is
        written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file({n: t.contiguous() for n, t in block.items()}, self.folder / f"block-{index}.safetensors")
        (self.folder / f"block-{index}.json").write_text(json.dumps(facts))
        hidden = self.folder / f"{index}-{HIDDEN}"
        save_file({str(i): t.contiguous() for i, t in enumerate(outputs)}, hidden)
        partial = self.folder / "finished.partial"
        partial.write_text(str(index + 1))
        partial.rename(self.folder / "finished")
        (self.folder / f"{index - 1}-{HIDDEN}").unlink(missing_ok=True)

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives (JSON-ready), made once: an interrupted run goes on with the same."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            text = json.dumps(make())
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(text)
            partial.rename(path)
        return json.loads(path.read_text())

    def block(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and facts of a finished block."""
        facts = json.loads((self.folder / f"block-{index}.json").read_text())
        return load_file(self.folder / f"block-{index}.safetensors"), facts

    def outputs(self) -> list[Tensor]:
        """The outputs of the last finished block, batch by batch."""
        stored = load_file(self.folder / f"{self.finished() - 1}-{HIDDEN}")
        return [stored[str(i)] for i in range(len(stored))]

    def clear(self) -> None:
        """Forget the run: it is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)
