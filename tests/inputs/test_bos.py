from __future__ import annotations

import pytest
import torch

from sinkquant.errors import UsageError
from sinkquant.inputs.bos import bos_policy, in_front

from .conftest import byte_tokenizer


@pytest.mark.parametrize("prepends", [True, False])
def test_auto_does_what_the_tokenizer_does(prepends: bool) -> None:
    assert bos_policy("auto", byte_tokenizer(prepends)) is prepends


def test_always_and_never_do_not_ask_the_tokenizer() -> None:
    assert bos_policy("always", byte_tokenizer(prepends_bos=False))
    assert not bos_policy("never", byte_tokenizer(prepends_bos=True))


def test_a_tokenizer_without_bos() -> None:
    tokenizer = byte_tokenizer(bos=None)
    assert not bos_policy("auto", tokenizer)
    with pytest.raises(UsageError, match=r"no BOS token.*auto or never"):
        bos_policy("always", tokenizer)


def test_an_unknown_setting_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'always'"):
        bos_policy("alway", byte_tokenizer())


@pytest.mark.parametrize(("tokens", "front"), [(None, []), ((), []), (9, [9]), ((9, 8), [9, 8])])
def test_the_same_tokens_stand_in_front_of_every_row(tokens: int | tuple[int, ...] | None, front: list[int]) -> None:
    assert in_front(torch.tensor([[1, 2], [3, 4]]), tokens).tolist() == [[*front, 1, 2], [*front, 3, 4]]
