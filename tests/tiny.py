"""A small model with a byte tokenizer, trained for seconds on a small language, so that what destroys a model shows."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BOS, EOS, VOCABULARY = 256, 257, 258


def sentences(count: int, seed: int = 0) -> str:
    """Text whose next byte is mostly certain: a small grammar, and products of digits."""
    draw = random.Random(seed)
    names, things = ["Anna", "Bert", "Cleo", "Dora"], ["apple", "basket", "candle", "drum"]

    def one() -> str:
        a, b = draw.randrange(10), draw.randrange(10)
        kinds = (f"{a} times {b} is {a * b}.", f"{draw.choice(names)} has {a} {draw.choice(things)}s.")
        return draw.choice(kinds)

    return "\n".join(one() for _ in range(count))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token, and BOS and EOS follow behind them; nothing is put in front of a text."""
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab | {"<s>": BOS, "</s>": EOS}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def random_llama() -> LlamaForCausalLM:
    """Grouped heads, and sizes that are no powers of two."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, tie_word_embeddings=True,
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=EOS,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def train(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, steps: int = 200) -> float:
    """Teach `model` the language; its last loss in nats per byte: 0.48 for `random_llama`, where a guess has 5.6."""
    rows, length = 8, 64
    ids = torch.tensor(tokenizer(sentences(4000, seed=1)).input_ids)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        starts = torch.randint(len(ids) - length, (rows, 1), generator=generator)
        batch = ids[starts + torch.arange(length)]
        batch[::4, 0] = BOS  # a text may begin behind it, anywhere
        loss = cross_entropy(model(batch).logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def save(model: LlamaForCausalLM, folder: Path) -> Path:
    """`model` and its tokenizer as a transformers folder."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
