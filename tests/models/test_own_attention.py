"""Composite models whose parts compute their attention differently."""

from __future__ import annotations

from transformers import AutoModelForCausalLM

from eval.families.configs import tiny_config
from sinkquant.models.attention import NAME, implementations, own_attention


def test_parts_that_are_no_models_are_left_out() -> None:
    model = AutoModelForCausalLM.from_config(tiny_config("mpt"))
    model.set_attn_implementation(implementations(model.config))
    assert "attn_config" not in implementations(model.config)


def test_every_part_gets_its_own_back() -> None:
    """One inside the other, as a prefix is made in the middle of a transformation."""
    model = AutoModelForCausalLM.from_config(tiny_config("got_ocr2"))
    before = implementations(model.config)
    assert len(set(before.values())) == 2  # else there is nothing to mix up
    with own_attention(model):
        with own_attention(model):
            pass
        assert implementations(model.config)["text_config"] == NAME
    assert implementations(model.config) == before
