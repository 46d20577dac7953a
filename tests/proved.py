"""Whether what is loaded is what was proved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sinkquant.formats.manifest import read_manifest
from sinkquant.tasks.probe import take_probe
from sinkquant.tasks.tasks import TASKS


def as_proved(model: Any, folder: Path) -> bool:
    """Whether `model`, loaded from `folder`, gives the logits of the proof's probe bit for bit."""
    manifest = read_manifest(folder)
    assert manifest.probe is not None
    stated = manifest.probe.model_dump()
    return bool(take_probe(TASKS[manifest.task], model, stated["ids"]) == stated)
