"""The recipe as frozen data: one model a section, every key with its allowed values and its meaning.

What a section does not mention stays as it is in the model: the default of every bit width is 16, not quantized.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..errors import unknown
from ..formats.format import FORMATS
from ..rounding.method import METHODS
from .validate import check

# Every number has both bounds: beyond them nothing is gained, and libraries overflow at places of their own.
LONGEST = 2**20  # tokens of a text, columns of a matrix
MOST_SEQUENCES = 2**16
TokenIds = Annotated[
    tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...], Field(strict=False, min_length=1, max_length=16)
]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise unknown("weights.method", name, METHODS)
    return name


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise unknown("target", name, FORMATS)
    return name


class Section(BaseModel):
    """Strict, so that `true` is no 1; unknown keys are errors; frozen, so that a plan can trust its recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Sinks(Section):
    """What happens to sink tokens."""

    prefix: Literal["auto", "none"] | TokenIds = Field(
        default="auto",
        description="Tokens whose keys and values become constants of the attention: found by detection, none, or ids.",
    )
    max_prefix: int = Field(default=4, ge=1, le=16, description="Most tokens that prefix=auto may choose.")
    exclude: bool = Field(default=True, description="Leave sink tokens out of ranges, clip searches and Hessians.")


class Transforms(Section):
    """Changes that leave the model's function as it is and make it easier to quantize."""

    fold_norms: bool = Field(description="Move the scales of the norms into the linears that read them.")
    r1: bool = Field(description="Rotate the residual stream; fused into the weights.")
    r2: bool = Field(description="Rotate value and output projection head by head; fused into the weights.")
    r3: bool = Field(description="Rotate queries and keys after the position embedding; computed online.")
    r4: bool = Field(description="Rotate the input of the down projection; computed online.")
    smooth: bool = Field(
        default=False, description="Balance the ranges of inputs and weights by their second moments; fused."
    )
    inputs: bool = Field(
        default=False,
        description="Rotate the inputs of all other linears of attention and feed-forward online, in place of R1.",
    )
    seed: Seed = Field(default=0, description="Seed of the random signs of the rotations.")


class Parts(Section):
    """What happens to the parts of a model that sees or hears and writes: recipe is what the other sections say, int8
    at least 8 bits for weights and inputs, float nothing."""

    towers: Literal["recipe", "int8", "float"] = Field(
        default="recipe", description="Stacks of image patches or frames in front of the language model."
    )
    connector: Literal["recipe", "int8", "float"] = Field(
        default="recipe", description="Linears between the towers and the language model."
    )
    language: Literal["recipe", "int8", "float"] = Field(default="recipe", description="The language model.")


class Weights(Section):
    """How the weights are stored."""

    bits: Literal[2, 3, 4, 8, 16] = Field(default=16, description="Bits a weight of the blocks; 16 leaves it alone.")
    budget: Annotated[float, Field(gt=2, le=8, strict=False)] | None = Field(
        default=None,
        description="Average bits a weight: linears are raised to 8 bits where the loss gains most; null raises none.",
    )
    group_size: Annotated[int, Field(ge=1, le=LONGEST)] | None = Field(
        default=None, description="Input columns that share a scale; null for one scale an output channel."
    )
    symmetric: bool = Field(default=True, description="No zero point.")
    method: Annotated[str, AfterValidator(_known_method)] = Field(
        default="rtn", description="How a weight is rounded: rtn (to nearest), gptq, or a registered method."
    )
    clip: Literal["none", "mse"] = Field(default="mse", description="How the range is chosen: largest, or least error.")
    damping: float = Field(
        default=0.01, ge=1e-6, le=1, strict=False, description="GPTQ: share of the Hessian's mean diagonal added to it."
    )
    sweeps: int = Field(
        default=0, ge=0, le=20, description="GPTQ: rounds of coordinate descent over codes and scales afterwards."
    )
    act_order: bool = Field(default=True, description="GPTQ: round the columns with the largest inputs first.")
    head_bits: Literal[8, 16] = Field(default=16, description="Bits a weight of the output head.")
    embedding_bits: Literal[8, 16] = Field(default=16, description="Bits a weight of the token embedding.")
    super_experts: Literal[4, 8, 16] | None = Field(
        default=None,
        description="Bits a weight of the experts that write the spikes, as detection names them; null: as all others.",
    )
    limit: Annotated[int, Field(ge=1, le=127)] | None = Field(
        default=None, description="Largest magnitude of an 8-bit code: 63 keeps CPUs without VNNI from saturating."
    )


class Activations(Section):
    """How the inputs of the linears are quantized."""

    bits: Literal[4, 6, 8, 16] = Field(default=16, description="Bits an activation; 16 leaves it alone.")
    mode: Literal["static", "dynamic"] = Field(
        default="dynamic", description="One calibrated scale a tensor, or one scale a token found at run time."
    )
    symmetric: bool = Field(default=True, description="No zero point.")
    clip: Literal["none", "mse"] = Field(default="mse", description="How a static range is chosen.")
    route: Annotated[float, Field(ge=1, le=1e6, strict=False)] | None = Field(
        default=None,
        description="Tokens beyond that many times a static range go through a linear in float; null routes none.",
    )
    center: bool = Field(
        default=False,
        description="Take every channel's mean out before rounding; its share of the output becomes part of the bias.",
    )
    spikes: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = Field(
        default=0,
        description="Spike units: an input's largest channels, multiplied in float; a number, or auto: where they pay.",
    )
    modality: Literal["auto", "one", "own"] = Field(
        default="auto",
        description="Rows of images among text: one static range with it, one of their own, or auto: where it pays.",
    )


class KVCache(Section):
    """How keys and values are kept."""

    bits: Literal[2, 4, 8, 16] = Field(default=16, description="Bits a cached number; 16 leaves it alone.")
    recent: int = Field(
        default=0, ge=0, le=LONGEST, description="Latest tokens whose keys and values stay in full precision."
    )
    balance: bool = Field(
        default=False,
        description="Transform keys against queries head by head, in place of R3, and take the means out; online.",
    )


class Tuning(Section):
    """Distillation after rounding: codes stay, everything that scales or shifts them is fitted to full precision."""

    epochs: int = Field(default=0, ge=0, le=20, description="Passes over the text; 0 leaves tuning out.")
    rate: float = Field(default=2e-3, ge=1e-6, le=0.1, strict=False, description="Largest relative change a step.")
    length: int = Field(default=512, ge=16, le=LONGEST, description="Tokens of text a step sees at once.")
    tokens: Annotated[int, Field(ge=16, le=2**31 - 1)] | None = Field(
        default=None, description="Tokens of the calibration text that are fitted, at most; null for all."
    )


class CalibrationSpec(Section):
    """The text that the model is measured on."""

    source: str = Field(
        default="python-docs",
        min_length=1,
        description="python-docs, self (the model writes it), datasets:NAME, or a file with text (txt, jsonl, csv …).",
    )
    column: str | None = Field(
        default=None, min_length=1, description="The column of a file or data set that is read; null finds the text."
    )
    sequences: int = Field(default=16, ge=1, le=MOST_SEQUENCES, description="Number of sequences.")
    length: int = Field(default=1024, ge=16, le=LONGEST, description="Tokens a sequence.")
    seed: Seed = Field(default=0, description="Seed of the order of a data set, and of text that the model writes.")
    bos: Literal["auto", "always", "never"] = Field(
        default="auto", description="Begin sequences with the BOS token: as the tokenizer does, always or never."
    )


class Proof(Section):
    """What baseline and result are measured by, on text behind that of the calibration."""

    metrics: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=16)] = Field(
        default=("perplexity",),
        description="Metrics by name; the first decides between recipes, and perplexity is always measured.",
    )
    worst: Annotated[float, Field(ge=1, le=1e9)] | None = Field(
        default=20.0,
        description="A result with more than that many times the model's perplexity is refused; null: none is.",
    )


class Export(Section):
    """How the checkpoint is written."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Type of what is not quantized; auto keeps the model's."
    )
    shard_size: str = Field(
        default="5GB",
        pattern="^[1-9][0-9]{0,4}[KMG]B$",
        examples=["5GB"],
        description="Largest file of the checkpoint.",
    )


class Recipe(Section):
    """Everything that decides a checkpoint, apart from the model. Raises UsageError where sections contradict."""

    name: str = Field(min_length=1, description="Name of the recipe.")
    description: str = Field(min_length=1, description="One line on what the recipe is for.")
    target: Annotated[str, AfterValidator(_known_format)] = Field(
        description="The format: portable loads in stock transformers, vLLM and SGLang; sink-aware needs sinkquant and "
        "can do more; or a registered one."
    )
    effort: Literal["fast", "default", "best"] = Field(
        default="default",
        description="fast leaves out coordinate descent, best tunes on 32 sequences; keys that are set win.",
    )
    sinks: Sinks = Field(default=Sinks(), description="Sink tokens.")
    transforms: Transforms = Field(description="Exact changes before quantization.")
    parts: Parts = Field(default=Parts(), description="Parts of models with several, such as towers for images.")
    weights: Weights = Field(default=Weights(), description="Weights.")
    activations: Activations = Field(default=Activations(), description="Inputs of the linears.")
    kv_cache: KVCache = Field(default=KVCache(), description="Keys and values.")
    tuning: Tuning = Field(default=Tuning(), description="Distillation after rounding.")
    calibration: CalibrationSpec = Field(default=CalibrationSpec(), description="Calibration text.")
    proof: Proof = Field(default=Proof(), description="Figures of the result.")
    export: Export = Field(default=Export(), description="Files.")

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        check(self)
        return self

    def digest(self) -> str:
        """sha256 (hexadecimal) of the recipe as JSON with sorted keys and no spaces, without the usual proof and keys
        that came later and ask for nothing."""
        data = self.model_dump(mode="json")
        if self.proof == Proof():
            del data["proof"]
        if self.activations.modality == Activations().modality:
            del data["activations"]["modality"]
        if self.parts == Parts():
            del data["parts"]
        later = (
            ("weights", "budget"),
            ("weights", "super_experts"),
            ("calibration", "column"),
            ("activations", "spikes"),
        )
        for section, key in later:
            if not data[section][key]:  # figures are kept by digest, and some are older than these keys
                del data[section][key]
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
