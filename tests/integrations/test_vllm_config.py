"""vLLM hands configurations to its processes by pickling them."""

from __future__ import annotations

import copy
import pickle

from transformers import LlamaConfig

from sinkquant.runtime.config import sink_aware


def test_a_sink_aware_configuration_survives_pickling() -> None:
    config = sink_aware(LlamaConfig)(hidden_size=64, num_hidden_layers=3)
    for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert type(other) is type(config)
        assert other.to_dict() == config.to_dict()
        assert other.to_dict()["model_type"] == "sinkquant"
        assert other.model_type == "llama"
