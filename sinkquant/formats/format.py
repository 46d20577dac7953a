"""A checkpoint format: what it can hold, how it is written and read, and who runs it.

Recipes are checked against their format while they are read, so that neither this file nor the top of a format's own
imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sinkquant.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from sinkquant.formats.facts import Manifest
    from sinkquant.formats.stored import Stored
    from sinkquant.inputs.batches import Batch
    from sinkquant.models.roles import Roles
    from sinkquant.quantization.scheme import KVScheme, LinearScheme, Transforms


@dataclass(frozen=True)
class Runtime:
    """A program. `loads`: whether the checkpoint runs there; `loss`: what is missing or not gained, in a sentence."""

    name: str
    loads: bool
    loss: str


@dataclass(frozen=True)
class Scheme:
    """What happens in a module: `weights` and `inputs` in words; `rotated`: its inputs are rotated online."""

    weights: str
    inputs: str = "float"
    rotated: bool = False


def in_words(bits: int, group: int | None) -> str:
    """Of a weight that is rounded."""
    return f"{bits} bits" + (f" in groups of {group}" if group else "")


@dataclass(frozen=True)
class Change:
    """What of a plan gives way to those who will load the checkpoint, and why: schemes of linears, bits of matrices."""

    note: str
    linears: Mapping[str, LinearScheme] = field(default_factory=dict)
    bits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What `sinkquant.load` was asked for. `execution="stock"`: by the loader that others have, as the proof wants."""

    dtype: torch.dtype | str
    device_map: Any
    offload_folder: str | Path | None
    execution: Literal["reference", "auto", "stock"]
    trust_remote_code: bool


class Planned(Protocol):
    """What a format sees of a plan; see `Plan` in flow/plan.py and `Recipe` in recipes/schema.py."""

    @property
    def recipe(self) -> Any: ...

    @property
    def prefix(self) -> tuple[int, ...]: ...

    @property
    def rotations(self) -> Transforms: ...

    @property
    def linears(self) -> Mapping[str, LinearScheme]: ...

    @property
    def kv(self) -> KVScheme: ...

    @property
    def bits(self) -> Mapping[str, int]: ...


class Format(ABC):
    """One kind of checkpoint, which a recipe's `target` names. What is not abstract holds for a plain one.

    `holds`: what it can hold, in words. `quant_method`: that of `quantization_config` in config.json, None: there is
    none. `weights`: how the name of a file with tensors ends. `ours`: our runtime runs it, so that online rotations,
    clips of dynamic inputs and our attention are at hand, and the proof asks for the same operations; what others run
    is proved with their attention, and its 8-bit weights under float inputs are packed into words as they want them.
    """

    holds: str
    quant_method: str | None = None
    weights: str = ".safetensors"
    ours: bool = False

    def needs(self, recipe: Any) -> Mapping[str, object]:
        """The keys of a recipe that must have a value for this format, with the value."""
        return {}

    def experts(self, model: Any) -> Collection[str] | None:
        """The modules of fused experts whose experts the format holds one by one, by name; None: all. The others stay
        fused and in float."""
        return None if self.ours else ()

    def refuses(self, recipe: Any, model: Any, roles: Roles) -> str | None:
        """Why no loader of the format would load this model, and what to do: a sentence, before any work."""
        return None

    def changes(self, plan: Planned, model: Any, roles: Roles, probe: Batch) -> Iterable[Change]:
        """What the loaders cannot carry out, in order; decided before any work. `probe`: what the model runs on."""
        return ()

    @abstractmethod
    def write(
        self, model: Any, roles: Roles, plan: Planned, folder: Path, facts: Mapping[str, Any], dtype: torch.dtype
    ) -> None:
        """Tensors and config.json. `dtype`: how what stays in float is stored, which it was rounded to in memory;
        `facts`: those of the manifest, which is written afterwards, as side files are."""

    @abstractmethod
    def read(self, folder: Path, manifest: Manifest, asked: Asked) -> Any:
        """The model. Checksums are compared meanwhile; evaluation mode, kernels and checks of its numbers follow."""

    def stored(self, folder: Path) -> Mapping[str, Stored]:
        """Names of the tensors, and what is stored for them; none is loaded."""
        from sinkquant.formats.stored import stored_tensors

        return stored_tensors(folder)

    def schemes(self, quantization: Mapping[str, Any]) -> Mapping[str, Scheme]:
        """What is done in which module, by the `quantization_config` of config.json; `Linear` stands for all others."""
        return {}

    def kv(self, quantization: Mapping[str, Any]) -> Mapping[str, Any]:
        """The scheme of keys and values: at least their `bits`."""
        return {"bits": 16}

    def runtimes(self, quantization: Mapping[str, Any], *, prefix: bool, serves: bool) -> tuple[Runtime, ...]:
        """Programs that can or cannot run a checkpoint, with a prefix or without, by the `quantization_config`; its
        `experts` are the modules whose experts are stored one by one.

        `serves`: it is a causal language model, which is what servers of text are tried with.
        """
        return (Runtime("transformers + sinkquant", True, "nothing"),)


FORMATS: Registry[Format] = Registry(
    "target",
    {"portable": "sinkquant.formats.portable:PORTABLE", "sink-aware": "sinkquant.formats.sink_aware:SINK_AWARE"},
)
