"""A result that is of no use is refused, and the module that broke it is named; what low bits cost is no reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MambaConfig, MambaForCausalLM

import sinkquant
import sinkquant.flow.run as flow
from sinkquant.evaluation.nonsense import Nonsense, correlation, culprit, is_nonsense, reference, refuse_strange
from sinkquant.flow.plan import Plan
from sinkquant.flow.session import Session
from sinkquant.inputs.batches import Batch, Batches
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.tasks.causal_lm import CAUSAL_LM

SMALL = ["calibration.length=64", "calibration.sequences=4", "weights.method=rtn"]
GUESS = math.log(50_000)

LOSSES = {  # loss of the model and of the result, nats a token; whether it is refused
    "as good": (3.2, 3.2, False),
    "better": (3.2, 3.1, False),
    "what four bits cost": (3.2, 3.5, False),
    "what four bits cost a tiny model": (1.8, 3.5, False),
    "21 times the perplexity": (3.2, 3.2 + math.log(21), True),
    "like a guess": (3.2, GUESS, True),
    "worse than a guess": (3.2, 13.1, True),
    "not finite": (3.2, math.nan, True),
    "endless": (3.2, math.inf, True),
    "a model that knows nothing": (GUESS, GUESS + 0.1, False),
    "a model that knows little": (GUESS - 1.0, GUESS - 0.05, True),
}


@pytest.mark.parametrize("case", LOSSES)
def test_losses(case: str) -> None:
    baseline, result, refused = LOSSES[case]
    assert is_nonsense(baseline, result, GUESS, 20.0) == refused


def test_correlation_knows_no_constant_and_no_offset() -> None:
    x = torch.randn(4, 50)
    assert correlation(x, 3 * x + torch.randn(4, 1)) == pytest.approx(1.0)
    assert correlation(torch.ones(4, 50), x) == 0.0
    assert abs(correlation(torch.randn(40, 500), torch.randn(40, 500))) < 0.1


def test_the_first_module_that_is_off_is_named() -> None:
    x = torch.randn(3, 4)
    before = dict.fromkeys("abcd", x)
    assert culprit(before, {"a": x * 1.1, "b": x * 0, "c": x * torch.nan}) == "b"
    assert culprit(before, {"a": x * 1.1, "b": x * 1.3, "c": x * 1.2}) == "b"
    assert culprit(before, {}) is None


def zero(linear: QuantizedLinear) -> None:
    linear._buffers["weight"].zero_()  # type: ignore[union-attr]


def endless(linear: QuantizedLinear) -> None:
    linear.weight_scale.fill_(torch.inf)


def swapped(linear: QuantizedLinear) -> None:
    codes = linear._buffers["weight"]
    assert codes is not None
    codes.copy_(codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))])


DAMAGE: dict[str, tuple[str, Callable[[QuantizedLinear], None]]] = {
    "head of zeros": ("lm_head", zero),
    "head in another order": ("lm_head", swapped),
    "an endless scale": ("model.layers.1.mlp.up_proj", endless),
}


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("case", DAMAGE)
def test_nothing_is_written_and_the_module_is_named(
    model_folder: Path, random_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    case: str, trained: bool,
) -> None:  # fmt: skip
    name, damage = DAMAGE[case]
    whole = flow.quantize_ends

    def damaged(session: Session, plan: Plan) -> None:
        whole(session, plan)
        damage(session.model.get_submodule(name))

    monkeypatch.setattr(flow, "quantize_ends", damaged)
    monkeypatch.setattr("sinkquant.runtime.loaded.refuse_not_finite", lambda *_: None)
    source = model_folder if trained else random_folder
    with pytest.raises(Nonsense, match=rf"{name} is where it begins"):
        quantized(source, "w8a8-static", text_file, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_whoever_wants_any_result_gets_it(
    model_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = flow.quantize_ends

    def damaged(session: Session, plan: Plan) -> None:
        whole(session, plan)
        swapped(session.model.lm_head)

    monkeypatch.setattr(flow, "quantize_ends", damaged)
    assert quantized(model_folder, "w8a8-static", text_file, tmp_path / "out", "proof.worst=null").path


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("recipe", ["w4a4kv4", "w4a8kv4", "w4a16"])
def test_what_low_bits_cost_is_accepted(
    model_folder: Path, random_folder: Path, text_file: Path, tmp_path: Path, recipe: str, trained: bool
) -> None:
    wishes = ["weights.group_size=16"] if recipe == "w4a16" else ["tuning.epochs=0", "sinks.prefix=none"]
    source = model_folder if trained else random_folder
    assert quantized(source, recipe, text_file, tmp_path / "out", *wishes).path


def quantized(source: Path, recipe: str, text: Path, out: Path, *wishes: str) -> Any:
    return sinkquant.quantize(source, recipe=recipe, output=out, overrides=[*SMALL, *wishes], calibration=str(text))


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import tiny

    return tiny.save(tiny.random_llama(), tmp_path_factory.mktemp("random") / "model")


def test_a_forward_that_breaks_outside_of_the_linears_is_noticed(tiny_llama: Any) -> None:
    ids = torch.arange(1, 25)[None]
    before = reference(CAUSAL_LM, tiny_llama, Batches((Batch({"input_ids": ids}),)))
    refuse_strange(tiny_llama, before)

    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(torch.int8).to(x.dtype)  # what hidden states cast to the type of codes become

    tiny_llama.model.norm = nn.Sequential(tiny_llama.model.norm, Cast())
    tiny_llama.model.norm[0].weight.mul_(1e-3)
    with pytest.raises(Nonsense, match="lm_head is where it begins"):
        refuse_strange(tiny_llama, before)


def test_a_model_that_reads_the_type_of_its_head_keeps_its_logits(tmp_path: Path, text_file: Path) -> None:
    from tests import tiny

    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=48, state_size=8, num_hidden_layers=2, pad_token_id=tiny.EOS,
        bos_token_id=tiny.BOS, eos_token_id=tiny.EOS,
    )  # fmt: skip
    model = MambaForCausalLM(config)
    done = quantized(tiny.save(model, tmp_path / "model"), "w8a8-static", text_file, tmp_path / "out")
    ids = torch.arange(1, 25)[None]
    with torch.no_grad():
        assert correlation(sinkquant.load(done.path)(ids).logits[0], model(ids).logits[0]) > 0.95
