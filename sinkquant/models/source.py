"""What the user named as MODEL, checked as far as that is possible without loading it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from sinkquant.errors import SinkquantError, UsageError

FORMS = "a transformers folder, a hub id (org/name), a .gguf file or package:NAME"
ADAPTER = "adapter_config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

# Bytes of the fixed-size metadata values, by their type number in the GGUF specification.
_GGUF_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


@dataclass(frozen=True)
class Source:
    """Where a model comes from. `location` is a folder, or the id of a hub model; `label` is what messages call it.

    `trusted`: Python code that the model brings along may run.
    """

    kind: Literal["folder", "hub", "gguf", "package"]
    location: str
    gguf_file: str | None
    label: str
    trusted: bool = False


def resolve(model: str | Path, trust_remote_code: bool = False) -> Source:
    """The source that `model` names; a local path wins over a hub id of the same spelling.

    Raises UsageError for what is no model, SinkquantError for a model file that is broken or cut short.
    """
    return replace(_resolve(model), trusted=trust_remote_code)


def _resolve(model: str | Path) -> Source:
    if not isinstance(model, str | os.PathLike) or not str(model):
        raise UsageError(f"{model!r} names no model: give {FORMS}.")
    name = str(model)
    if name.startswith("package:"):
        return _package(name.removeprefix("package:"))
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        return _folder(path.resolve())
    if os.path.isfile(path) and path.suffix.lower() == ".gguf":
        return _gguf(path.resolve(), "gguf", path.name)
    if os.path.isfile(path):
        forms = f"the folder it lies in, {path.parent}" if (path.parent / "config.json").is_file() else FORMS
        raise UsageError(f"{name!r} is a file but no .gguf file: give {forms}.")
    if isinstance(model, str) and _HUB_ID.fullmatch(name) and path.suffix.lower() != ".gguf":
        return Source("hub", name, None, name)
    raise UsageError(f"no model at {name!r}: give {FORMS}.")


def local_folder(source: Source) -> Path:
    """The folder that holds the source's files; those of a hub model are downloaded unless the cache has them.

    Python files of a hub model come along where it is trusted. Without network the cached files serve.
    """
    if source.kind != "hub":
        return Path(source.location)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    wanted = [
        "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm", "LICENSE*", "NOTICE*", "README.md",
        "model*.safetensors", *(["*.py"] if source.trusted else []),
    ]  # fmt: skip
    # Subfolders hold the same weights for other engines, apart from additional_chat_templates.
    unwanted = ["[!a]*/*", "a[!d]*/*"]
    remedy = "give a local folder, a .gguf file or package:NAME"
    try:
        return Path(snapshot_download(source.location, allow_patterns=wanted, ignore_patterns=unwanted))
    except GatedRepoError as error:
        raise SinkquantError(
            f"the hub lets only approved accounts read {source.label!r}: set HF_TOKEN to the token of one, or {remedy}."
        ) from error
    except RepositoryNotFoundError as error:
        raise SinkquantError(
            f"{source.label!r} is neither a local folder nor a hub model that this account may read: "
            f"check the spelling and HF_TOKEN, or {remedy}."
        ) from error
    except Exception as error:  # the hub client lets errors of its HTTP library through
        partial = getattr(error, "snapshot_path", None)
        if partial is not None:  # offline, and the cache lacks some file, maybe none that is needed
            return Path(partial)
        raise SinkquantError(
            f"{source.label!r} is no local folder, and the hub cannot be reached for it ({type(error).__name__}): "
            f"check the network and HF_TOKEN, or {remedy}."
        ) from error


def local_place(source: Source) -> Path | None:
    """The file or folder of a model that the user keeps on this machine; None for one that comes from the hub."""
    if source.kind == "hub":
        return None
    return Path(source.location, source.gguf_file or "")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that transformers would load from `folder`, by name."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            shards = tuple(folder / name for name in names)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SinkquantError(f"{index} is no index of weight files: copy or download it again.") from error
        for shard in shards:
            if not shard.is_file():
                raise SinkquantError(
                    f"{folder.name} lacks {shard.name}, one of {len(shards)} weight files: copy or download it again."
                )
        return shards
    pickles = sorted(path.name for ending in ("bin", "pt", "pth") for path in folder.glob(f"*.{ending}"))
    if pickles:
        raise UsageError(
            f"{folder} holds its weights only as pickle ({pickles[0]}), which can run code when it is read: "
            "convert them to safetensors first, save_pretrained writes it."
        )
    raise UsageError(f"{folder} holds no weights: model.safetensors or model.safetensors.index.json must be there.")


def refuse_adapter(folder: Path, label: str) -> None:
    """Raise UsageError for an adapter beside the weights: the model that is meant is both together."""
    if (folder / ADAPTER).is_file():
        raise UsageError(
            f"{label} holds a PEFT adapter ({ADAPTER}): merge it into the model first (merge_and_unload of peft, then "
            "save_pretrained), and give the merged folder."
        )


def _folder(path: Path) -> Source:
    refuse_adapter(path, str(path))
    if not (path / "config.json").is_file():
        nested = next(iter(sorted(path.glob("snapshots/*/config.json"))), None)  # a model of the hub's cache
        given = "its .gguf file itself" if any(path.glob("*.gguf")) else nested.parent if nested else FORMS
        raise UsageError(f"{path} is no model, it holds no config.json: give {given}.")
    weight_files(path)
    return Source("folder", str(path), None, path.name)


def _package(name: str) -> Source:
    files, installed = [], False
    try:
        files = [Path(str(file.locate())) for file in importlib.metadata.files(name) or () if file.suffix == ".gguf"]
        installed = True
    except (importlib.metadata.PackageNotFoundError, ValueError):
        pass
    if name.isidentifier():  # a dotted name would be looked up by importing its parents
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # a module that is running has no spec
            spec = None
        installed = installed or spec is not None
        for folder in (spec and spec.submodule_search_locations) or ():
            files += Path(folder).rglob("*.gguf")
    found = sorted({file.resolve() for file in files if file.is_file()})
    if not installed:
        raise UsageError(f"no package {name!r} is installed: install it, or give {FORMS}.")
    if not found:
        raise UsageError(f"package {name!r} ships no .gguf file: give {FORMS}.")
    if len(found) > 1:
        raise UsageError(f"package {name!r} ships {len(found)} GGUF files: give one of {', '.join(map(str, found))}.")
    return _gguf(found[0], "package", f"package:{name}")


def _gguf(path: Path, kind: Literal["gguf", "package"], label: str) -> Source:
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise SinkquantError(f"{path.name} is no GGUF file, it does not start with GGUF: download it again.")
        try:
            expected = _gguf_size(file)
        except (struct.error, LookupError, ValueError, ArithmeticError, OSError) as error:
            raise SinkquantError(
                f"{path.name} is cut short or broken inside its header, at {size:,} bytes: download it again."
            ) from error
    if size < expected:
        raise SinkquantError(f"{path.name} is cut short, {size:,} bytes of {expected:,}: download it again.")
    return Source(kind, str(path.parent), path.name, label)


def _gguf_size(file: BinaryIO) -> int:
    """Bytes up to the end of the last tensor; `file` stands behind the magic.

    Layout: version, tensor count, key count, keys and values, one row a tensor, padding, tensors
    (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). A header that ends early or makes no sense raises one
    of struct.error, LookupError, ValueError, ArithmeticError and OSError.
    """
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError as error:
        raise SinkquantError("GGUF files need the gguf package: pip install 'sinkquant[gguf]'.") from error

    def read(layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, file.read(struct.calcsize(layout)))

    def skip(kind: int) -> None:
        if kind == _GGUF_STRING:
            (length,) = read("<Q")
            file.seek(length, os.SEEK_CUR)
        elif kind == _GGUF_ARRAY:
            item, count = read("<IQ")
            if item == _GGUF_STRING:
                for _ in range(count):
                    skip(item)
            else:
                file.seek(count * _GGUF_SCALARS[item], os.SEEK_CUR)
        else:
            file.seek(_GGUF_SCALARS[kind], os.SEEK_CUR)

    version, tensors, keys = read("<IQQ")
    if version not in (2, 3):
        raise ValueError(f"GGUF version {version}")
    alignment = 32
    for _ in range(keys):
        (length,) = read("<Q")
        key = file.read(min(length, 65535))  # the longest key that GGUF allows
        (kind,) = read("<I")
        if key == b"general.alignment":
            (alignment,) = read("<I")
        else:
            skip(kind)
    ends = [0]
    for _ in range(tensors):
        skip(_GGUF_STRING)
        (dimensions,) = read("<I")
        if dimensions > 4:  # the most that GGML has
            raise ValueError(f"{dimensions} dimensions")
        *shape, number, offset = read(f"<{dimensions}QIQ")
        block, width = GGML_QUANT_SIZES[GGMLQuantizationType(number)]
        elements = 1
        for extent in shape:
            elements *= extent
        ends.append(offset + elements // block * width)
    data = (file.tell() + alignment - 1) // alignment * alignment
    return data + max(ends)
