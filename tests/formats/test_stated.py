"""A config.json that names another quantization than the manifest, or none, with the right checksum."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import sinkquant
from sinkquant.formats.manifest import write_manifest

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "v0.1.0"
MISSING = object()


@pytest.mark.parametrize("kind", ["sink-aware", "portable"])
@pytest.mark.parametrize("method", [MISSING, None, "", "w8a8", ["sinkquant"], "\x1b[31mnone", "gptq"])
def test_another_quantization_is_refused(kind: str, method: object, tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / kind, tmp_path / "checkpoint")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if method is MISSING:
        del config["quantization_config"]
    else:
        config["quantization_config"]["quant_method"] = method
    path.write_text(json.dumps(config))
    write_manifest(folder, json.loads((folder / "sinkquant.json").read_text()))
    for check in (sinkquant.load, sinkquant.inspect, lambda given: sinkquant.load(given, execution="auto")):
        with pytest.raises(sinkquant.SinkquantError, match=r"config\.json has no quantization_config by"):
            check(folder)
