"""Two hundred command lines that cannot work: each ends with one sentence and an exit code, and leaves nothing behind.

A new case is a line of the table. Every line runs in a folder with the files that `broken_things` makes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny

Cli = Callable[..., Any]
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "v0.1.0"

LINES = r"""
nothing
-x
--versionn
--json
detekt model
help
detect
detect model extra
detect --json
detect ''
detect ' '
detect nowhere
detect ./nowhere
detect nowhere/model.gguf
detect a/b/c
detect 'a b'
detect $'new\nline'
detect empty
detect file.txt
detect model/config.json
detect model/model.safetensors
detect checkpoint
detect model.gguf
detect cut.gguf
detect folder.gguf
detect package:
detect package:nowhere
detect package:typer
detect package:../x
detect no-weights
detect no-tokenizer
detect broken-config
detect config-list
detect unknown-type
detect vit
detect zero-heads
detect quantized
detect own-code
detect model --bos maybe
detect model --max-prefix 0
detect model --max-prefix 17
detect model --max-prefix x
detect model --max-prefix
detect model --calibration nowhere.txt
detect model --calibration empty.txt
detect model --calibration short.txt
detect model --calibration binary.txt
detect model --calibration empty.jsonl
detect model --calibration broken.jsonl
detect model --calibration numbers.jsonl
detect model --calibration broken.parquet
detect model --calibration model
detect model --calibration model/config.json
detect model --calibration datasets:
detect model --calibration x:y:z
detect model --unknown
detect model --json=maybe
quantize
quantize model
quantize -o out
quantize nowhere -o out
quantize empty -o out
quantize model -o
quantize model -o out --recipe
quantize model -o out --recipe w8a9
quantize model -o out --recipe nowhere.yaml
quantize model -o out --recipe empty.yaml
quantize model -o out --recipe broken.yaml
quantize model -o out --recipe list.yaml
quantize model -o out --recipe loop.yaml
quantize model -o out --recipe binary.txt
quantize model -o out --recipe model
quantize model -o out --recipe ''
quantize model -o out --bits 5
quantize model -o out --bits -8
quantize model -o out --bits eight
quantize model -o out --bits 4.5
quantize model -o out --bits ''
quantize model -o out --target stock
quantize model -o out --target ''
quantize model -o out --recipe w8a8 --bits 8
quantize model -o out --recipe w8a8 --target portable
quantize model -o out --set weights
quantize model -o out --set =4
quantize model -o out --set weights.bits=
quantize model -o out --set weights.bits=5
quantize model -o out --set weights.bits=four
quantize model -o out --set weight.bits=4
quantize model -o out --set weights.bit=4
quantize model -o out --set weights.bits.more=4
quantize model -o out --set weights=4
quantize model -o out --set weights.bits=[4]
quantize model -o out --set 'weights.bits={'
quantize model -o out --recipe w8a8 --set kv_cache.bits=4
quantize model -o out --recipe w4a16 --set weights.group_size=0
quantize model -o out --recipe w4a16 --set weights.group_size=-8
quantize model -o out --recipe w4a16 --set weights.damping=0
quantize model -o out --recipe w4a16 --set weights.damping=nan
quantize model -o out --recipe w4a16 --set weights.damping=1e-300
quantize model -o out --recipe w4a16 --set effort=huge
quantize model -o out --set calibration.sequences=0
quantize model -o out --set calibration.length=-1
quantize model -o out --set calibration.length=1e3
quantize model -o out --set calibration.seed=99999999999999999999999
quantize model -o out --set transforms.seed=99999999999999999999999
quantize model -o out --set sinks.prefix=some
quantize model -o out --set sinks.prefix=[-1]
quantize model -o out --recipe w8a8-static --set sinks.prefix=[99999]
quantize model -o out --set tuning.epochs=-1
quantize model -o out --calibration nowhere.txt
quantize model -o out --calibration short.txt
quantize model -o model
quantize model -o model --overwrite
quantize model -o .
quantize model -o . --overwrite
quantize model -o full
quantize model -o full --overwrite
quantize model -o file.txt
quantize model -o file.txt/out
quantize model -o file.txt --overwrite
quantize model -o 'out\0'
quantize model -o 'out\0' --overwrite
inspect 'checkpoint\0'
verify 'checkpoint\0'
quantize model -o out extra
quantize no-weights -o out
quantize no-tokenizer -o out
quantize unknown-type -o out
quantize vit -o out
quantize zero-heads -o out
quantize quantized -o out
quantize own-code -o out
quantize checkpoint -o out
quantize nan --recipe w8a8 -o out
quantize other-shape --recipe w8a8 -o out
quantize cut-weights --recipe w8a8 -o out
evaluate
evaluate checkpoint
evaluate --baseline model
evaluate nowhere --baseline model
evaluate model --baseline model
evaluate checkpoint --baseline nowhere
evaluate checkpoint --baseline ''
evaluate checkpoint --baseline vit
evaluate checkpoint --baseline other-vocabulary --text long.txt
evaluate checkpoint --baseline model --text nowhere.txt
evaluate checkpoint --baseline model --text empty.txt
evaluate checkpoint --baseline model --text short.txt
evaluate checkpoint --baseline model --text model
evaluate checkpoint --baseline model --window 1
evaluate checkpoint --baseline model --window x
evaluate checkpoint --baseline model --max-tokens 0
evaluate checkpoint --baseline model --max-tokens 2 --text long.txt
evaluate checkpoint --baseline model --bos maybe
evaluate checkpoint --baseline model --limit 3
evaluate checkpoint --baseline model --task-data .
evaluate checkpoint --baseline model --tasks nowhere
evaluate checkpoint --baseline model --tasks ''
evaluate checkpoint --baseline model --tasks a --text long.txt
evaluate checkpoint --baseline model --tasks a --limit 0
evaluate checkpoint --baseline model --html nowhere/page.html
evaluate checkpoint --baseline model --html checkpoint/page.html
inspect
inspect nowhere
inspect ''
inspect file.txt
inspect empty
inspect model
inspect checkpoint extra
inspect checkpoint --html checkpoint/page.html
inspect checkpoint --html nowhere/page.html
inspect checkpoint --html empty
inspect no-manifest
inspect broken-manifest
inspect empty-manifest
inspect list-manifest
inspect list-manifest --json
inspect missing-file
inspect changed-file
inspect missing-file --json
verify
verify nowhere
verify file.txt
verify empty
verify model
verify checkpoint --runtime onnx
verify no-manifest
verify broken-manifest
verify empty-manifest
verify list-manifest
evaluate list-manifest --baseline model
verify missing-file
verify changed-file
verify checkpoint --json --json=1
recipes nowhere
recipes nowhere.yaml
recipes ''
recipes empty.yaml
recipes broken.yaml
recipes list.yaml
recipes loop.yaml
recipes model
recipes w8a8 extra
recipes w8a9 --json
"""
CASES = [line for line in LINES.splitlines() if line]


def broken_things(home: Path) -> None:
    """What the lines of the table name, in the folder `home`."""
    whole = tiny.save(tiny.random_llama(), home / "model")
    config = json.loads((whole / "config.json").read_text())
    shutil.copytree(FIXTURES / "sink-aware", home / "checkpoint")
    texts = {
        "file.txt": "text", "empty.txt": "", "short.txt": "hi", "long.txt": tiny.sentences(100), "empty.jsonl": "",
        "broken.jsonl": '{"text": ', "numbers.jsonl": '{"id": 1}\n{"id": 2}\n', "broken.parquet": "PAR1",
        "broken.yaml": "weights: {bits: [", "list.yaml": "- 1\n", "loop.yaml": "imports: [./loop.yaml]\n",
        "empty.yaml": "", "model.gguf": "GGUF", "cut.gguf": "GGUF\3\0\0\0",
    }  # fmt: skip
    for name, text in texts.items():
        (home / name).write_text(text)
    (home / "binary.txt").write_bytes(bytes(range(128, 256)) * 9)
    for name in ("empty", "full", "folder.gguf"):
        (home / name).mkdir()
    (home / "full/thesis.txt").write_text("precious")

    def model(name: str, **changes: object) -> Path:
        folder = shutil.copytree(whole, home / name)
        (folder / "config.json").write_text(json.dumps(config | changes))
        return folder

    (model("no-weights") / "model.safetensors").unlink()
    for file in model("no-tokenizer").glob("tokenizer*"):
        file.unlink()
    (model("broken-config") / "config.json").write_text('{"model_type": ')
    (model("config-list") / "config.json").write_text("[]")
    model("unknown-type", model_type="llamma")
    model("vit", model_type="vit", architectures=["ViTForImageClassification"])
    model("zero-heads", num_attention_heads=0)
    model("quantized", quantization_config={"quant_method": "gptq"})
    model("own-code", auto_map={"AutoConfig": "code.Config"})
    model("other-shape", hidden_size=96)
    weights = model("cut-weights") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    for name, change in (("nan", float("nan")), ("other-vocabulary", None)):
        llama = tiny.random_llama()
        if change is None:
            llama.resize_token_embeddings(300)
        else:
            llama.model.norm.weight.data[3] = change
        tiny.save(llama, home / name)

    manifests = {"no": None, "broken": '{"recipe": ', "list": "[]", "empty": "{}"}
    for name, text in manifests.items():
        folder = shutil.copytree(home / "checkpoint", home / f"{name}-manifest")
        (folder / "sinkquant.json").unlink()
        if text is not None:
            (folder / "sinkquant.json").write_text(text)
    (shutil.copytree(home / "checkpoint", home / "missing-file") / "config.json").unlink()
    with (shutil.copytree(home / "checkpoint", home / "changed-file") / "tokenizer.json").open("a") as file:
        file.write(" ")


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time."""
    found = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "home"
    folder.mkdir()
    broken_things(folder)
    return folder


@pytest.mark.parametrize("line", CASES)
def test_a_line_that_cannot_work(cli: Cli, home: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    before = state(home)
    arguments = [part.removeprefix("$").replace(r"\n", "\n").replace(r"\0", "\0") for part in shlex.split(line)]
    result = cli(*arguments)
    said = result.stderr.splitlines()
    assert result.exit_code in (1, 2), (result.exit_code, result.output)
    assert result.stdout == ""
    assert len(said) == 1 and said[0].startswith("error: ") and said[0].endswith("."), result.stderr
    assert "unexpected " not in said[0].replace("got unexpected extra", "") and "Traceback" not in said[0]
    assert state(home) == before
    logs = Path(os.environ["SINKQUANT_CACHE"]) / "logs"
    assert not logs.exists(), "\n".join(path.read_text() for path in logs.iterdir())


def test_there_are_enough_lines() -> None:
    assert len(CASES) == len(set(CASES)) >= 190
