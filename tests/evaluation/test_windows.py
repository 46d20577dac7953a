from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sinkquant.errors import UsageError
from sinkquant.evaluation.windows import text_windows

BOS = 1
VOCABULARY = {"<unk>": 0, "<s>": BOS} | {f"w{i}": i + 2 for i in range(200)}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Words w0…w199 are tokens 2…201; special tokens are added unless one says otherwise."""
    tokens = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<s>", unk_token="<unk>")


def text(words: int) -> str:
    return " ".join(f"w{i}" for i in range(words))


def test_windows_are_consecutive_and_hold_no_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer(text(1)).input_ids == [BOS, 2]
    windows = text_windows(text(100), tokenizer, window=40, max_windows=None, max_tokens=None, bos_id=None)
    assert windows.dtype == torch.int64
    assert torch.equal(windows, torch.arange(2, 82).view(2, 40))  # 20 tokens fill no window


def test_windows_with_bos_hold_the_same_text_as_windows_one_shorter(tokenizer: PreTrainedTokenizerFast) -> None:
    with_bos = text_windows(text(100), tokenizer, window=41, bos_id=BOS)
    without = text_windows(text(100), tokenizer, window=40)
    assert with_bos.shape == (2, 41)
    assert (with_bos[:, 0] == BOS).all()
    assert torch.equal(with_bos[:, 1:], without)


@pytest.mark.parametrize(
    ("limits", "shape"),
    [
        ({"max_windows": 1}, (1, 40)),
        ({"max_windows": 9}, (3, 40)),
        ({"max_tokens": 119}, (2, 40)),
        ({"max_tokens": 80, "max_windows": 1}, (1, 40)),
        ({"max_tokens": 39}, (1, 39)),
    ],
)
def test_limits(tokenizer: PreTrainedTokenizerFast, limits: dict[str, int], shape: tuple[int, int]) -> None:
    assert tuple(text_windows(text(130), tokenizer, window=40, **limits).shape) == shape


def test_short_text_makes_one_short_window(tokenizer: PreTrainedTokenizerFast) -> None:
    assert torch.equal(text_windows(text(32), tokenizer, window=2048), torch.arange(2, 34)[None])
    assert text_windows(text(32), tokenizer, window=2048, bos_id=BOS)[0].tolist() == [BOS, *range(2, 34)]


def test_too_little_text_is_refused_with_the_remedy(tokenizer: PreTrainedTokenizerFast) -> None:
    for words in (0, 31):
        with pytest.raises(UsageError, match=rf"^{words} tokens of text .* at least 32 tokens\.$"):
            text_windows(text(words), tokenizer, window=2048)
    with pytest.raises(UsageError, match="at least 32"):
        text_windows(text(100), tokenizer, window=40, max_tokens=31)


def test_impossible_numbers_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        text_windows(text(100), tokenizer, window=1)
    with pytest.raises(UsageError, match="max_windows is 0"):
        text_windows(text(100), tokenizer, window=40, max_windows=0)
    with pytest.raises(UsageError, match="max_tokens is -3"):
        text_windows(text(100), tokenizer, window=40, max_tokens=-3)
