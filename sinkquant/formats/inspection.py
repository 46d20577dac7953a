"""What a checkpoint is, from its manifest, its config.json and its tensors' headers: no model is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sinkquant.formats import names
from sinkquant.formats.facts import Experts, Manifest
from sinkquant.formats.format import FORMATS, Runtime, Scheme
from sinkquant.formats.manifest import AGAIN, CONFIG, verify
from sinkquant.formats.stated import stated_config
from sinkquant.formats.stored import Stored, Weight, stored_weights
from sinkquant.formats.targets import target_of
from sinkquant.models.json_file import understood
from sinkquant.models.seal import KEY

QUANTIZED = ("I8", "I32")
FLOAT = Scheme("float")


@dataclass(frozen=True)
class Part:
    """All modules of some kinds that share a scheme. Shares are of the whole model's, 0 … 1."""

    kinds: tuple[str, ...]
    modules: int
    scheme: Scheme
    bits: float  # stored for one weight, scales included
    parameters: int
    parameter_share: float
    multiply_add_share: float


@dataclass(frozen=True)
class Inspection:
    """Everything that `sinkquant inspect` tells. `quantized` and `floats` together hold every parameter."""

    folder: str
    model: str
    recipe: str
    target: str
    bytes: int
    bits: float  # stored for one parameter, over all parameters
    prefix: tuple[int, ...]
    prefix_tokens: tuple[str, ...]
    fused: tuple[str, ...]
    online: tuple[str, ...]
    kv: Mapping[str, Any]
    quantized: tuple[Part, ...]
    floats: tuple[Part, ...]
    runtimes: tuple[Runtime, ...]
    notes: tuple[str, ...]
    figures: Mapping[str, Any]
    versions: Mapping[str, str]
    experts: tuple[Experts, ...]  # how many tokens of the calibration chose each
    verified: int  # files whose checksums agree


def inspect_folder(folder: Path) -> Inspection:
    """Raises SinkquantError where the folder is no checkpoint, or a file is missing or has changed."""
    manifest = verify(folder)
    config = stated_config(folder, manifest)
    tensors = FORMATS[manifest.recipe.target].stored(folder)
    with understood(folder / CONFIG, AGAIN):
        return _inspection(folder, manifest, config, tensors)


def _inspection(
    folder: Path, manifest: Manifest, config: Mapping[str, Any], tensors: Mapping[str, Stored]
) -> Inspection:
    kind, stored = FORMATS[manifest.recipe.target], config.get("quantization_config") or {}
    stored = {"experts": (config.get(KEY) or {}).get("experts", ()), **stored}
    weights = list(stored_weights(tensors, config))
    schemes = _as_stored(kind.schemes(stored), (config.get(KEY) or {}).get("names", {}))
    integer = [weight for weight in weights if weight.dtype in QUANTIZED or schemes.get(weight.name, FLOAT) != FLOAT]
    floats = [weight for weight in weights if weight not in integer]
    recipe, report = manifest.recipe, manifest.report
    kv = kind.kv(stored)
    fused = manifest.rotations
    rotated = sum(scheme.rotated for scheme in schemes.values())
    online = names.online(rotate=kv.get("rotate", False), balance=kv.get("balance", False), linears=rotated)
    prefix = tuple(manifest.prefix)
    choice = report.prefix if report is not None else None
    tokens = tuple(choice.tokens) if choice is not None and tuple(choice.ids) == prefix else ()
    return Inspection(
        folder=str(folder), model=manifest.model, recipe=recipe.name, target=recipe.target,
        bytes=sum((folder / name).stat().st_size for name in manifest.files),
        bits=8 * sum(w.bytes for w in weights) / sum(w.parameters for w in weights),
        prefix=prefix, prefix_tokens=tokens, fused=("not recorded",) if fused is None else tuple(names.fused(fused)),
        online=tuple(online), kv=kv,
        quantized=tuple(_parts(integer, schemes, weights)), floats=tuple(_parts(floats, schemes, weights)),
        runtimes=kind.runtimes(stored, prefix=bool(prefix), serves=manifest.task == "causal-lm"),
        notes=tuple(manifest.notes), figures=manifest.figures, versions=manifest.versions,
        experts=tuple(manifest.experts), verified=len(manifest.files),
    )  # fmt: skip


def _as_stored(schemes: Mapping[str, Scheme], heads: Mapping[str, str]) -> dict[str, Scheme]:
    """By the names that modules have on disk, where those begin with one of `heads` in place of its own name."""
    found = dict(schemes)
    for name, scheme in schemes.items():
        for stored, own in heads.items():
            if name.startswith(f"{own}."):
                found[stored + name.removeprefix(own)] = scheme
    return found


def _parts(chosen: list[Weight], schemes: Mapping[str, Scheme], everything: list[Weight]) -> Iterator[Part]:
    """Modules with equal schemes together, those in float by kind; in the order of their share."""
    parameters, adds = sum(w.parameters for w in everything), sum(w.multiply_adds for w in everything)
    groups: dict[tuple[Scheme, str], list[Weight]] = {}
    for weight in chosen:
        scheme = schemes.get(target_of(weight.name, schemes), FLOAT)
        if weight.dtype not in QUANTIZED:
            scheme = replace(schemes.get(weight.name, FLOAT), weights=weight.dtype.lower())
        groups.setdefault((scheme, weight.kind if _plain(scheme) else ""), []).append(weight)
    for (scheme, _), members in sorted(groups.items(), key=lambda item: -sum(w.parameters for w in item[1])):
        count = sum(w.parameters for w in members)
        yield Part(
            kinds=tuple(dict.fromkeys(w.kind for w in members)),
            modules=len(members),
            scheme=scheme,
            bits=8 * sum(w.bytes for w in members) / count,
            parameters=count,
            parameter_share=count / parameters,
            multiply_add_share=sum(w.multiply_adds for w in members) / adds,
        )


def _plain(scheme: Scheme) -> bool:
    return scheme.inputs == "float" and not scheme.rotated and "bits" not in scheme.weights
