"""What users may add from outside, by a class and its registration, without a changed line of the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import sinkquant
from sinkquant.evaluation.metric import METRICS
from sinkquant.flow.result import Result
from sinkquant.formats.format import FORMATS, Format, Scheme, in_words
from sinkquant.formats.stored import Stored
from sinkquant.formats.write import linear_schemes
from sinkquant.inputs.sources import INPUTS
from sinkquant.quantization.grid import scale_and_zero
from sinkquant.quantization.scheme import WeightScheme
from sinkquant.quantization.weights import QuantizedWeight
from sinkquant.registry import Registry
from sinkquant.rounding.method import METHODS, Settings
from sinkquant.walk.statistics import Mean, Statistic
from tests import tiny
from tests.proved import as_proved

SMALL = ["calibration.sequences=4", "calibration.length=64"]


class Stochastic:
    """Up or down at random, with odds that keep the mean; the mean of the inputs seeds the draw."""

    needs: Mapping[str, Callable[[], Statistic]] = {"mean": Mean}
    passes = 1.0

    def round(
        self, weight: Tensor, scheme: WeightScheme, values: Mapping[str, Tensor], settings: Settings
    ) -> QuantizedWeight:
        generator = torch.Generator().manual_seed(int(values["mean"].abs().sum() * 1e6))
        scale, _ = scale_and_zero(weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), scheme.grid)
        codes = (weight / scale + torch.rand(weight.shape, generator=generator)).floor()
        return QuantizedWeight(codes.clamp(scheme.grid.low, scheme.grid.high).to(torch.int8), scale, None)


def test_a_rounding_method(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    with METHODS.registered("stochastic", Stochastic()):
        made = sinkquant.quantize(
            model_folder, recipe="w8a8-static", output=tmp_path / "out", calibration=text_file,
            overrides=["weights.method=stochastic", *SMALL],
        )  # fmt: skip
    nearest = sinkquant.quantize(
        model_folder, recipe="w8a8-static", output=tmp_path / "rtn", calibration=text_file, overrides=SMALL
    )
    assert made.figures["result_perplexity"] == pytest.approx(made.figures["baseline_perplexity"], rel=0.05)
    assert made.figures["result_perplexity"] != nearest.figures["result_perplexity"]


class Flat(Stochastic):
    """Forgets the groups."""

    def round(
        self, weight: Tensor, scheme: WeightScheme, values: Mapping[str, Tensor], settings: Settings
    ) -> QuantizedWeight:
        made = super().round(weight, scheme, values, settings)
        return QuantizedWeight(made.codes, made.scale[:, 0], None)


class Unrounded(Stochastic):
    """Leaves the codes in float."""

    def round(
        self, weight: Tensor, scheme: WeightScheme, values: Mapping[str, Tensor], settings: Settings
    ) -> QuantizedWeight:
        made = super().round(weight, scheme, values, settings)
        return QuantizedWeight(made.codes.float(), made.scale, None)


MISSHAPEN = [
    (Stochastic(), "w4a16", r"gave scales \(\d+, 1\), where .* are wanted, for groups of \d+ inputs"),
    (Flat(), "w8a8-static", r"gave scales \(\d+,\), where \(\d+, 1\) are wanted, for one group of all inputs"),
    (Unrounded(), "w8a8-static", r"gave codes .* in torch\.float32, where .* in torch\.int8 are wanted"),
]


@pytest.mark.parametrize(("method", "recipe", "message"), MISSHAPEN)
def test_a_rounding_method_that_gives_another_form(
    method: Stochastic, recipe: str, message: str, model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    overrides = ["weights.method=mine", *SMALL, *(["weights.group_size=16"] if recipe == "w4a16" else [])]
    with METHODS.registered("mine", method), pytest.raises(sinkquant.SinkquantError, match=message):
        sinkquant.quantize(
            model_folder, recipe=recipe, output=tmp_path / "out", calibration=text_file, overrides=overrides
        )


def test_an_input(model_folder: Path, tmp_path: Path) -> None:
    rows = [{"id": f"{i:032x}", "text": tiny.sentences(20, seed=i)} for i in range(100)]
    with INPUTS.registered("rows", lambda: rows):
        made = sinkquant.quantize(
            model_folder, recipe="w8a8-static", output=tmp_path / "out", calibration="rows", overrides=SMALL
        )
    assert any("rows" in note and "text" in note for note in made.plan.notes)
    assert made.figures["result_perplexity"] < 1.05 * made.figures["baseline_perplexity"]


class Certainty:
    """The mean share that the model gives to its first choice."""

    unit, better, against = "%", "higher", "labels"

    def terms(self, answers: Tensor, expected: Tensor) -> Tensor:
        return answers.amax(-1).exp()

    def value(self, terms: Tensor) -> float:
        return 100 * float(terms.mean())


def test_a_metric(model_folder: Path, text_file: Path, tmp_path: Path) -> None:
    with METRICS.registered("certainty", Certainty()):
        made = sinkquant.quantize(
            model_folder, output=tmp_path / "out", calibration=text_file,
            overrides=["proof.metrics=[certainty, accuracy]", *SMALL],
        )  # fmt: skip
    assert 50 < made.figures["baseline_certainty"] < 100
    assert made.figures["result_certainty"] == pytest.approx(made.figures["baseline_certainty"], abs=2)
    assert 0.5 < made.figures["result_accuracy"] < 1
    assert made.choice is not None
    assert "certainty" in made.choice.reason


@pytest.mark.parametrize("recipe", [None, "w8a8-static"])
def test_a_metric_whose_answers_are_not_kept(
    recipe: str | None, model_folder: Path, text_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(sinkquant.UsageError, match=r"'kl' compares with .* \(task causal-lm\): name in proof\.metrics"):
        sinkquant.quantize(
            model_folder, recipe=recipe, output=tmp_path / "out", calibration=text_file,
            overrides=["proof.metrics=[kl, perplexity]", *SMALL],
        )  # fmt: skip


class Npz(Format):
    """Codes and what is in float as arrays of one file, for a model that transformers builds."""

    holds = "weights alone"
    weights = ".npz"

    def needs(self, recipe: Any) -> dict[str, object]:
        online = ("transforms.r3", "transforms.r4", "transforms.inputs", "activations.center", "kv_cache.balance")
        widths = ("activations.bits", "kv_cache.bits", "weights.head_bits", "weights.embedding_bits")
        return {"sinks.prefix": "none"} | dict.fromkeys(online, False) | dict.fromkeys(widths, 16)

    def write(self, model: Any, roles: Any, plan: Any, folder: Path, facts: Any, dtype: torch.dtype) -> None:
        model.config.save_pretrained(folder)
        arrays = dict(model.named_parameters())
        for name in linear_schemes(model):
            weight = model.get_submodule(name).quantized_weight()
            arrays |= {f"{name}.weight": weight.codes, f"{name}.weight_scale": weight.scale}
        np.savez(folder / "model.npz", **{name: tensor.detach().numpy() for name, tensor in arrays.items()})

    def read(self, folder: Path, manifest: Any, asked: Any) -> Any:
        arrays = {name: torch.from_numpy(array) for name, array in np.load(folder / "model.npz").items()}
        for name in [name for name in arrays if name.endswith("_scale")]:
            weight = name.removesuffix("_scale")
            arrays[weight] = QuantizedWeight(arrays[weight], arrays.pop(name), None).dequantized()
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        model.load_state_dict(arrays, strict=False)
        return model

    def stored(self, folder: Path) -> dict[str, Stored]:
        words = {"int8": "I8", "float32": "F32"}
        arrays = np.load(folder / "model.npz")
        return {name: Stored(words[str(array.dtype)], array.shape, array.nbytes) for name, array in arrays.items()}

    def schemes(self, quantization: Any) -> dict[str, Scheme]:
        return {"Linear": Scheme(in_words(4, None))}


def test_a_format(quantize_tiny: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with FORMATS.registered("npz", Npz()):
        made = quantize_tiny(out, "w4a16", "target=npz")
        assert made.figures["result_perplexity"] < 1.2 * made.figures["baseline_perplexity"]
        assert as_proved(sinkquant.load(out), out)
        found = sinkquant.inspect(out)
        assert (found.target, found.quantized[0].scheme.weights, found.quantized[0].modules) == ("npz", "4 bits", 21)
        assert {path.suffix for path in out.iterdir()} == {".json", ".npz"}
        with pytest.raises(sinkquant.SinkquantError, match=r"names the format 'npz', of .*: register it first"):
            sinkquant.verify(out)  # which asks a process of its own
        with pytest.raises(
            sinkquant.UsageError, match=r"a npz recipe \(weights alone\) cannot have sinks\.prefix=auto"
        ):
            quantize_tiny(tmp_path / "other", "w8a8-static", "target=npz")
        data = bytearray((out / "model.npz").read_bytes())
        data[-1] ^= 1
        (out / "model.npz").write_bytes(data)
        with pytest.raises(sinkquant.SinkquantError, match=r"model\.npz has changed"):
            sinkquant.load(out)
    with pytest.raises(sinkquant.SinkquantError, match=r"names the format 'npz', of portable, sink-aware"):
        sinkquant.load(out)


UNKNOWN = [
    ("target=npz", "portable, sink-aware"),
    ("weights.method=stochastic", "gptq, rtn"),
    ("calibration.source=rows", "python-docs"),
    ("proof.metrics=[perplexity, accuracie]", "accuracy.*perplexity"),
]


@pytest.mark.parametrize(("key", "options"), UNKNOWN)
def test_an_unknown_name_lists_what_there_is(key: str, options: str, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(sinkquant.UsageError, match=rf"unknown .*choose one of .*{options}"):
        sinkquant.quantize(model_folder, recipe="w8a8-static", output=tmp_path / "out", overrides=[key])


def test_a_name_is_taken_once() -> None:
    registry: Registry[int] = Registry("number", {"pi": "math:pi"})
    assert 3 < registry["pi"] < 4
    with pytest.raises(sinkquant.UsageError, match="there is a number 'pi' already"):
        registry.register("pi", 3)
    with registry.registered("two", 2):
        assert list(registry) == ["pi", "two"]
    assert "two" not in registry
