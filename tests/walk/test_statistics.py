"""Statistics against float64 references, whatever the parts, and over two processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from sinkquant.walk.statistics import Hessian, Mean, Peaks, Sample, Statistic

REFERENCES: list[tuple[Callable[[], Statistic], Callable[[Tensor], Tensor]]] = [
    (Mean, lambda rows: rows.double().mean(0)),
    (Hessian, lambda rows: rows.double().T @ rows.double() / len(rows)),
    (lambda: Sample(1), lambda rows: rows.double()),
    (Peaks, lambda rows: rows.double().abs().amax(0)),
]


def fed(make: Callable[[], Statistic], parts: list[Tensor]) -> Statistic:
    statistic = make()
    for part in parts:
        statistic.add(part)
    return statistic


@pytest.mark.parametrize(("make", "reference"), REFERENCES, ids=["mean", "hessian", "sample", "peaks"])
@pytest.mark.parametrize("sizes", [[500], [1, 499], [100] * 5, [0, 500]])
def test_parts_do_not_matter(
    make: Callable[[], Statistic], reference: Callable[[Tensor], Tensor], sizes: list[int]
) -> None:
    rows = torch.randn(500, 24) * torch.linspace(0.1, 30, 24) + 5
    value, expected = fed(make, list(rows.split(sizes))).value, reference(rows)
    assert (value.double() - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_a_mean_of_large_rows_keeps_its_digits() -> None:
    rows = torch.full((300_000, 1), 1e4) + torch.arange(300_000)[:, None] % 2
    assert float(fed(Mean, list(rows.split(1000))).value[0]) == 1e4 + 0.5


def test_a_sample_is_evenly_spaced() -> None:
    rows = torch.arange(100.0)[:, None]
    assert fed(lambda: Sample(10), [rows]).value[:, 0].tolist() == list(range(0, 100, 10))


def walk(rank: int, file: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    rows = torch.randn(64, 8, generator=torch.Generator().manual_seed(3))
    for make, reference in REFERENCES:
        statistic = fed(make, [rows[rank::2]])
        statistic.reduce()
        value, expected = statistic.value.double(), reference(rows)
        if value.shape == rows.shape:  # samples come process by process
            value, expected = value.sort(0).values, expected.sort(0).values
        assert (value - expected).abs().max() <= 1e-6 * expected.abs().max()
    distributed.destroy_process_group()


def test_processes_add_up(tmp_path: Path) -> None:
    started = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path / "meet")]) for rank in range(2)]
    assert [process.wait(timeout=60) for process in started] == [0, 0]


if __name__ == "__main__":
    walk(int(sys.argv[1]), sys.argv[2])
