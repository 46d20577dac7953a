from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sinkquant.inputs.batches import UNKNOWN, Batch, Batches


def batch(count: int, length: int, first: int = 0) -> Batch:
    ids = first + torch.arange(count * length).reshape(count, length)
    names = tuple(str(first + row) for row in range(count))
    return Batch({"input_ids": ids, "extra": ids[:, :1]}, {"input_ids": ids >= 0}, ids[:, 0], names)


BATCHES = Batches((batch(3, 4), batch(2, 5, first=100)), "here", "read")


def test_a_batch_is_cut_in_parts_of_so_many_entries() -> None:
    parts = BATCHES.cut(8)
    assert [len(part) for part in parts] == [2, 1, 1, 1]
    for part in parts:
        assert part.labels is not None
        assert part.tensors["input_ids"][:, 0].tolist() == part.labels.tolist() == part.tensors["extra"][:, 0].tolist()
        assert len(part.texts) == len(part.real["input_ids"]) == len(part)


def test_samples_are_counted_and_taken_across_batches() -> None:
    part = BATCHES.part(2, 4)
    assert (BATCHES.samples, part.samples, part.source, part.said) == (5, 2, "here", "read")
    assert [text for item in part.items for text in item.texts] == ["2", "100"]
    assert BATCHES.part(3).samples == 2


def test_the_digest_follows_names_content_shape_and_what_is_real() -> None:
    first = BATCHES.items[0]
    ids = first.tensors["input_ids"]
    padded = ids > 0
    others = [
        replace(first, tensors={"ids": ids}), replace(first, tensors={"input_ids": ids + 1}),
        replace(first, tensors={"input_ids": ids.reshape(2, 6)}), replace(first, tensors={"input_ids": ids.int()}),
        replace(first, tensors={"input_ids": ids}, real={"input_ids": padded}), first,
    ]  # fmt: skip
    digests = {Batches((item,)).digest for item in others}
    assert len(digests) == len(others) and all(one.startswith("sha256:") and len(one) == 7 + 64 for one in digests)
    assert BATCHES.digest == Batches(BATCHES.items, "elsewhere").digest


TENSORS = {
    "ids": ({"input_ids": (4, 11)}, 11),
    "two sequences": ({"input_ids": (4, 11), "decoder_input_ids": (4, 30)}, 30),
    "frames beside a short text": ({"input_features": (4, 80, 3000), "decoder_input_ids": (4, 7)}, 3000),
    "images beside a short text": ({"input_ids": (4, 7), "pixel_values": (4, 3, 32, 32)}, UNKNOWN),
}


@pytest.mark.parametrize("case", TENSORS)
def test_batches_are_cut_by_their_longest_sequence(case: str) -> None:
    shapes, length = TENSORS[case]
    made = Batch({name: torch.zeros(shape) for name, shape in shapes.items()})
    assert made.length == length
    assert [len(part) for part in made.cut(3 * length)] == [3, 1]
    assert [len(part) for part in made.cut(1)] == [1] * 4
