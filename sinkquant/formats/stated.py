"""config.json of a checkpoint: that of a model quantized as the manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sinkquant.errors import SinkquantError
from sinkquant.formats.facts import Manifest
from sinkquant.formats.format import FORMATS
from sinkquant.formats.manifest import AGAIN, CONFIG
from sinkquant.models.json_file import read_object


def stated_config(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """config.json; SinkquantError where it names no quantization, or another than the manifest's."""
    config = read_object(folder / CONFIG, AGAIN)
    stated, wanted = config.get("quantization_config"), FORMATS[manifest.recipe.target].quant_method
    if wanted is None:
        return config
    if not isinstance(stated, dict) or stated.get("quant_method") != wanted:
        raise SinkquantError(
            f"{folder / CONFIG} has no quantization_config by {wanted}, as the manifest says it has: {AGAIN}."
        )
    return config
