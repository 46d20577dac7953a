"""torchao: `quantize_` with its configurations; state dicts written and read as its documentation says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from eval.peers import plain
from eval.peers.setting import BEST, DEFAULT, OPTION, Setting

PACKAGES = ("torchao", "transformers")
OURS_LOADS = False  # its tensors need its package
Apply = Callable[[Any, Tensor], None]


def _linears(module: Any, name: str) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear) and name != "lm_head"


def _config(name: str, **options: Any) -> Apply:
    """A configuration of torchao.quantization by its name."""

    def apply(model: Any, calibration: Tensor) -> None:
        from torchao import quantization

        quantization.quantize_(model, getattr(quantization, name)(**options), _linears)

    return apply


def _int4(name: str, granularity: str) -> Apply:
    import torch
    from torchao.quantization import PerGroup

    return _config(name, weight_dtype=torch.int4, **{granularity: PerGroup(32)})


def _int4_weights() -> Apply:
    """The quick start's configuration: its packing takes bfloat16 alone."""
    apply = _config(
        "Int4WeightOnlyConfig", group_size=32, int4_packing_format="tile_packed_to_4d",
        int4_choose_qparams_algorithm="hqq",
    )  # fmt: skip
    return lambda model, calibration: apply(model.bfloat16(), calibration)


def _smooth(base: str, *passes: str, sequences: int | None = None, **options: Any) -> Apply:
    """SmoothQuant. Two `passes` go with observers that keep running maxima, one with those that keep every input."""

    def apply(model: Any, calibration: Tensor) -> None:
        from torchao import quantization
        from torchao.prototype.smoothquant import SmoothQuantConfig
        from torchao.quantization.quantize_.common.quantization_step import QuantizationStep

        def step(name: str) -> None:
            config, chosen = getattr(quantization, base)(**options), getattr(QuantizationStep, name)
            smooth = SmoothQuantConfig(config, chosen, 0.5, use_running_absmax=len(passes) > 1)
            quantization.quantize_(model, smooth, _linears)

        for name in passes:
            step(name)
            plain.run(model, calibration[:sequences])
        step("CONVERT")

    return apply


def _dynamic() -> Apply:
    return _smooth("Int8DynamicActivationInt8WeightConfig", "PREPARE", "PREPARE_FOR_SMOOTHQUANT_SMOOTHING_FACTOR")


def _static() -> Apply:
    """With the observers that keep every input: the others do not take this configuration in torchao 0.18."""
    from torchao.quantization import PerRow, PerTensor

    return _smooth(
        "Int8StaticActivationInt8WeightConfig", "PREPARE", sequences=4, granularity=[PerTensor(), PerRow()]
    )  # fmt: skip


SETTINGS = (
    Setting("W8A8", "dynamic", DEFAULT, lambda: _config("Int8DynamicActivationInt8WeightConfig")),
    Setting("W4A16", "int4 weight only, HQQ, groups of 32", DEFAULT, _int4_weights),
    Setting("W4A16", "intx weight only, groups of 32", OPTION, lambda: _int4("IntxWeightOnlyConfig", "granularity")),
    Setting("W4A8", "groups of 32, dynamic", OPTION,
            lambda: _int4("Int8DynamicActivationIntxWeightConfig", "weight_granularity")),
    Setting("W8A8", "SmoothQuant 0.5, static per tensor, 4 windows", OPTION, _static),
    Setting("W8A8", "SmoothQuant 0.5, dynamic", BEST, _dynamic),
)  # fmt: skip


def quantize(options: Apply, folder: Path, calibration: Tensor) -> Any:
    """The model with its linears quantized, the head left alone."""
    model = plain.load(folder)
    options(model, calibration)
    return model


def save(model: Any, folder: Path) -> None:
    import torch

    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "model.pt")


def load(folder: Path) -> Any:
    import torch
    import torchao  # noqa: F401 - its tensors are known to torch.load once it is imported
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=False), assign=True)
    return model.eval()
