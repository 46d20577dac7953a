"""The files beside the weights that belong to a model: what its loaders read, licence and model card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from sinkquant.errors import SinkquantError
from sinkquant.models.json_file import read_object

TEMPLATES = "additional_chat_templates"
_TEXT = r"(\.(json|txt|jinja|tiktoken|model|spm|vocab|codes|bpe))+(\.v\d+)?"
SIDE_FILE = re.compile(
    r"(generation_config|special_tokens_map|added_tokens|normalizer|emoji|word_shape|word_pronunciation)\.json|"
    rf"(tokenizer|vocab|merges|tekken|chat_template|spiece|sentencepiece|dict|bpe)[\w-]*{_TEXT}|"
    rf"[\w.-]*(tokenizer|vocab|unigram|bpe|ice_text){_TEXT}|[\w.-]+\.(tiktoken|spm)|"
    r"(video_|image_|feature_)?(pre)?(processor|extractor)_config\.json|"
    r"modules\.json|(config_)?sentence_[a-z_]+\.json|\d+_[A-Za-z]\w*/(config\.json|model\.safetensors)|"
    rf"{TEMPLATES}/[\w.-]+\.jinja|"
    r"((UN)?LICEN[CS]E|NOTICE|COPYING|USE_POLICY)[\w-]*(\.(md|txt|pdf))?|README\.md",
    re.ASCII,
)
"""Names, by their path in the model's folder. No pickle, no code and nothing hidden is among them."""

SETTINGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
"""Files whose `auto_map` names classes in Python files of the folder."""


def side_files(folder: Path) -> list[Path]:
    """The side files in `folder`. Links are left out, unless they lead to where the hub's cache keeps its files."""
    return [path for path in _named(folder) if _own(path, folder)]


def left_out(folder: Path) -> list[str]:
    """Names of side files that are links, which nobody follows."""
    return [path.relative_to(folder).as_posix() for path in _named(folder) if not _own(path, folder)]


def code_files(folder: Path) -> list[Path]:
    """The Python files that the model's classes come from, with those that they import from beside them.

    Raises SinkquantError for one that is a link out of the folder.
    """
    from transformers.dynamic_module_utils import get_relative_import_files

    found: set[Path] = set()
    for reference in _references(folder):  # what another repository holds is not here
        path = folder / f"{reference.split('.')[0]}.py"
        if "--" not in reference and path.is_file():
            found |= {path, *map(Path, get_relative_import_files(path))}
    for path in found:
        if not _own(path, folder):
            raise SinkquantError(f"{path} is a link, which may lead anywhere: put a copy of the file in its place.")
    return sorted(found)


def brings_code(folder: Path) -> bool:
    """Whether a configuration in `folder` names a class in a Python file, there or in another repository."""
    return any(True for _ in _references(folder))


def _references(folder: Path) -> Iterator[str]:
    """Classes that the configurations in `folder` name: `own.Model`, or `org/name--own.Model`."""
    for settings in (folder / name for name in SETTINGS if (folder / name).is_file()):
        auto_map = read_object(settings, "copy or download the model again").get("auto_map")
        values = auto_map.values() if isinstance(auto_map, dict) else (auto_map,)
        # A tokenizer has two in a list, the slow one and the fast one, or none of them.
        names: Iterable[object] = chain.from_iterable(one if isinstance(one, list) else [one] for one in values)
        yield from (name for name in names if isinstance(name, str))


def _named(folder: Path) -> list[Path]:
    files = [*folder.iterdir(), *folder.glob("[0-9]*_*/*"), *(folder / TEMPLATES).glob("*")]
    return sorted(path for path in files if SIDE_FILE.fullmatch(path.relative_to(folder).as_posix()) and path.is_file())


def _own(path: Path, folder: Path) -> bool:
    home = folder.resolve()
    if home.parent.name == "snapshots":  # the hub's cache links every file to the folder beside
        return any(path.resolve().is_relative_to(place) for place in (home, home.parent.parent / "blobs"))
    return not path.is_symlink() and path.resolve().parent.is_relative_to(home)
