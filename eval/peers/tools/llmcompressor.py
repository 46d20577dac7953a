"""llm-compressor: modifiers after its examples for W8A8, W4A16, AWQ, SpinQuant and caches.

Its documentation calibrates on 256 to 512 samples; here it gets the tokens that our recipes get. Group sizes of 128 do
not divide this model's width, so a smaller one stands where the documented one fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from eval.peers.plain import load as load
from eval.peers.setting import ADAPTED, BEST, DEFAULT, OPTION, Setting

PACKAGES = ("llmcompressor",)
OURS_LOADS = True  # compressed-tensors, read by plain transformers
IGNORED = ["lm_head", r"re:.*\.gate$"]


def _int(bits: int, strategy: str, **more: Any) -> dict[str, Any]:
    return {"num_bits": bits, "type": "int", "symmetric": True, "strategy": strategy, **more}


def _scheme(weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}
    return {"config_groups": groups, "ignore": IGNORED}


STATIC = _scheme(_int(8, "channel"), _int(8, "tensor", dynamic=False))
TOKENS = {"dynamic": True}


def _static() -> list[Any]:
    from llmcompressor.modifiers.quantization import QuantizationModifier

    return [QuantizationModifier(**STATIC)]


def _gptq(*before: Any, **options: Any) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier

    return [*before, GPTQModifier(**options)]


def _smooth() -> Any:
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    return SmoothQuantModifier(smoothing_strength=0.8)


def _spin(**options: Any) -> Any:
    from llmcompressor.modifiers.transform import SpinQuantModifier

    return SpinQuantModifier(rotations=["R1", "R2", "R4"], **options)


def _awq() -> list[Any]:
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    weights = _int(4, "group", group_size=64) | {"symmetric": False}
    return [AWQModifier(duo_scaling="both"), QuantizationModifier(**_scheme(weights))]


def _cache8() -> list[Any]:
    cache = {"num_bits": 8, "type": "float", "strategy": "attn_head", "dynamic": False, "symmetric": True}
    return _gptq(**_scheme(_int(4, "channel"), _int(8, "token", **TOKENS)), kv_cache_scheme=cache)


PRESET = {"targets": "Linear", "ignore": IGNORED}
W4A4 = _scheme(_int(4, "channel"), _int(4, "token", **TOKENS))
SETTINGS = (
    Setting("W8A8", "SmoothQuant 0.8, GPTQ, dynamic", DEFAULT, lambda: _gptq(_smooth(), scheme="W8A8", **PRESET)),
    Setting("W8A8", "static per tensor, min-max", OPTION, _static),
    Setting("W8A8", "SmoothQuant 0.8, GPTQ, static per tensor", OPTION, lambda: _gptq(_smooth(), **STATIC)),
    Setting("W4A4", "SpinQuant R1 R2 R4, GPTQ, dynamic", DEFAULT, lambda: _gptq(_spin(), **W4A4)),
    Setting("W4A4", "SpinQuant R1 R2 R4, random Hadamard, GPTQ, dynamic", BEST,
            lambda: _gptq(_spin(transform_type="random-hadamard"), **W4A4), in_memory=True),
    Setting("W4A16", "GPTQ, groups of 128", DEFAULT, lambda: _gptq(scheme="W4A16", **PRESET)),
    Setting("W4A16", "GPTQ, groups of 64", ADAPTED,
            lambda: _gptq(**_scheme(_int(4, "group", group_size=64))), in_memory=True),
    Setting("W4A16", "GPTQ, per channel", OPTION, lambda: _gptq(**_scheme(_int(4, "channel")))),
    Setting("W4A8", "GPTQ, per channel, dynamic; KV float8 per head", OPTION, _cache8, in_memory=True),
    Setting("W4A16", "AWQ, asymmetric groups of 64", ADAPTED, _awq),
)  # fmt: skip


def quantize(options: Any, folder: Path, calibration: Tensor) -> Any:
    """The model with the modifiers applied, still in memory."""
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot

    model = load(folder)
    rows = {"input_ids": calibration.tolist(), "attention_mask": torch.ones_like(calibration).tolist()}
    oneshot(
        model=model, tokenizer=str(folder), dataset=Dataset.from_dict(rows), recipe=options,
        max_seq_length=calibration.shape[1], num_calibration_samples=len(calibration),
    )  # fmt: skip
    return model


def save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, save_compressed=True)
