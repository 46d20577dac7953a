"""How a sink-aware checkpoint names itself, so that a stock loader refuses it and ours finds the base model.

`config.json` carries `model_type: sinkquant`; the base type and everything else that our code needs stands under the
top-level key `sinkquant`. Loading gives the base model's own configuration class, which writes the same file again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.models.media import Media
from sinkquant.models.roles import Cached
from sinkquant.quantization.scheme import KVScheme, LinearScheme

Scheme = TypeVar("Scheme", bound=Hashable)
Made = TypeVar("Made")
MODEL_TYPE = METHOD = KEY = "sinkquant"
PositionKind = Literal["rotary", "table", "uncounted"]
"""`table`: one that begins behind the prefix; `uncounted`: so does it, and position ids are the model's own affair."""


class SinkquantConfig(PreTrainedConfig):
    """Registered for `model_type: sinkquant`; only its `from_dict` is ever used."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The base model's configuration."""
        facts = config_dict.get(KEY) or {}
        base_type = str(facts.get("base_model_type"))
        if base_type not in CONFIG_MAPPING and config_dict.get("auto_map"):
            raise UsageError(
                f"the checkpoint's base model {base_type!r} brings Python code that would run on this machine: read "
                "it, then load the checkpoint with sinkquant.load(…, trust_remote_code=True)."
            )
        if base_type not in CONFIG_MAPPING:
            raise SinkquantError(
                f"the checkpoint's base model {base_type!r} is unknown to this transformers; upgrade transformers."
            )
        base: Any = CONFIG_MAPPING[base_type]
        return sink_aware(base).from_dict({**config_dict, "model_type": base_type}, **kwargs)


def load_base_config(folder: Path, trust_remote_code: bool) -> Any:
    """The configuration of a checkpoint of either kind, by a class that its model brings along where that is trusted.

    transformers itself never asks a type that somebody registered, as ours is, for other code.
    """
    if trust_remote_code:
        stated, _ = PreTrainedConfig.get_config_dict(folder)
        reference = (stated.get("auto_map") or {}).get("AutoConfig")
        if stated.get("model_type") == MODEL_TYPE and reference:
            own: Any = get_class_from_dynamic_module(reference, folder)
            own.register_for_auto_class()
            return sink_aware(own).from_pretrained(folder)
    return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


@cache
def sink_aware(base: Any) -> Any:
    """`base` with another name on disk. It keeps its Python name, by which transformers finds the model class."""

    def to_dict(self: Any) -> dict[str, Any]:
        return {**base.to_dict(self), "model_type": MODEL_TYPE}

    def reduce(self: Any) -> Any:  # pickle would look for the class under the base's name
        return _restore, (base, dict(self.__dict__))

    return type(
        base.__name__,
        (base,),
        {"to_dict": to_dict, "__reduce__": reduce, "__module__": base.__module__},
    )


def _restore(base: Any, state: dict[str, Any]) -> Any:
    made: Any = sink_aware(base)
    config = made.__new__(made)
    config.__dict__.update(state)
    return config


def make_sink_aware(config: PreTrainedConfig, facts: dict[str, Any], quantization: SinkquantQuantization) -> Any:
    """The configuration to save with a sink-aware model."""
    fields = {**config.to_dict(), KEY: {"base_model_type": config.model_type, **facts}}
    fields.pop("quantization_config", None)
    base: Any = type(config)
    made = sink_aware(base).from_dict(fields)
    made.quantization_config = quantization
    return made


class SinkquantQuantization(QuantizationConfigMixin):
    """The `quantization_config` of a sink-aware checkpoint: which linear and which attention has which scheme."""

    def __init__(
        self,
        linears: dict[str, LinearScheme],
        attentions: dict[str, KVScheme],
        prefix_length: int,
        kv_shapes: dict[str, tuple[int, int, int]],
        embeddings: tuple[str, ...] = (),
        final_norm: str | None = None,
        untied_head: bool = False,
        positions: PositionKind = "rotary",
        experts: tuple[str, ...] = (),
        hub_names: Mapping[str, str] | None = None,
        media: Media | None = None,
        bare: tuple[str, ...] = (),
        cached: Mapping[str, tuple[KVScheme, Cached]] | None = None,
    ) -> None:
        """`kv_shapes`: (kv heads, size of a key, of a value) of every attention; `embeddings`: names of 8-bit ones;
        `positions`: what a text has behind a prefix; `experts`: modules whose experts are taken apart;
        `hub_names`: tensors are stored under the hub's names, these modules under others than in the model; None: under
        those of the model; `media`: which rows stand for media, where some linears have a range of their own for
        them; `bare`: attentions that the prefix does not stand in; `cached`: attentions whose keys and values are
        rounded where they are cached."""
        self.quant_method = METHOD  # type: ignore[assignment]
        self.linears, self.attentions, self.prefix_length = linears, attentions, prefix_length
        self.kv_shapes, self.embeddings = kv_shapes, embeddings
        self.final_norm, self.untied_head, self.positions = final_norm, untied_head, positions
        self.experts, self.hub_names, self.media, self.bare = experts, hub_names, media, bare
        self.cached = dict(cached or {})
        # Linears that are to stay out of the model; never stored.
        self.apart: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; linears and attentions with equal schemes share a group."""
        return {
            "quant_method": METHOD,
            "linears": _group(self.linears, LinearScheme.to_dict),
            "attentions": _group(
                {name: (scheme, self.kv_shapes[name]) for name, scheme in self.attentions.items()},
                lambda entry: vars(entry[0]) | {"shape": list(entry[1])},
            ),
            "prefix_length": self.prefix_length,
            "embeddings": list(self.embeddings),
            "final_norm": self.final_norm,
            "untied_head": self.untied_head,
            "positions": self.positions,
            "experts": list(self.experts),
            **({} if self.hub_names is None else {"hub_names": dict(self.hub_names)}),
            **({} if self.media is None else {"media": vars(self.media) | {"ids": list(self.media.ids)}}),
            **({"bare": list(self.bare)} if self.bare else {}),
            **({"cached": _cached_groups(self.cached)} if self.cached else {}),
        }

    def to_diff_dict(self) -> dict[str, Any]:
        """Everything is needed to load; nothing is left out."""
        return self.to_dict()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The inverse of `to_dict`."""
        linears = _ungroup(config_dict["linears"], LinearScheme.from_dict)
        shapes = _ungroup(config_dict["attentions"], lambda scheme: _kv_shape(scheme["shape"]))
        attentions = _ungroup(config_dict["attentions"], _kv_scheme)
        made = cls(
            linears, attentions, config_dict["prefix_length"], shapes, tuple(config_dict["embeddings"]),
            config_dict["final_norm"], config_dict["untied_head"], config_dict.get("positions", "rotary"),
            tuple(config_dict.get("experts", ())), config_dict.get("hub_names"), _media(config_dict.get("media")),
            tuple(config_dict.get("bare", ())),
            _cached(config_dict.get("cached", ())),
        )  # fmt: skip
        made.apart = frozenset(config_dict.get("apart", ()))
        return (made, kwargs) if return_unused_kwargs else made


def _group(schemes: Mapping[str, Scheme], to_dict: Callable[[Scheme], dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal schemes with the names that have them."""
    groups: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        groups.setdefault(scheme, []).append(name)
    return [{"scheme": to_dict(scheme), "targets": names} for scheme, names in groups.items()]


def _ungroup(groups: list[dict[str, Any]], from_dict: Callable[[dict[str, Any]], Made]) -> dict[str, Made]:
    made = ((from_dict(group["scheme"]), group["targets"]) for group in groups)
    return {name: scheme for scheme, names in made for name in names}


def _cached_groups(cached: Mapping[str, tuple[KVScheme, Cached]]) -> list[dict[str, Any]]:
    """Attentions with equal schemes and arguments, each with the number of its layer in a cache."""
    groups: dict[tuple[KVScheme, str], dict[str, int]] = {}
    for name, (scheme, one) in cached.items():
        groups.setdefault((scheme, one.argument), {})[name] = one.layer
    return [{"scheme": vars(s), "argument": argument, "targets": names} for (s, argument), names in groups.items()]


def _cached(groups: Iterable[Mapping[str, Any]]) -> dict[str, tuple[KVScheme, Cached]]:
    return {
        name: (KVScheme(**group["scheme"]), Cached(name, group["argument"], layer))
        for group in groups
        for name, layer in group["targets"].items()
    }


def _media(fields: dict[str, Any] | None) -> Media | None:
    return None if fields is None else Media(fields["stack"], fields["argument"], tuple(fields["ids"]))


def _kv_shape(stored: list[int]) -> tuple[int, int, int]:
    """Checkpoints of 0.1 name one size, which keys and values share."""
    return stored[0], stored[1], stored[-1]


def _kv_scheme(fields: dict[str, Any]) -> KVScheme:
    return KVScheme(**{name: value for name, value in fields.items() if name != "shape"})
