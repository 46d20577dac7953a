"""How many rows the linears of a model route."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sinkquant.runtime.linear import QuantizedLinear

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


class RoutedRows:
    """Counts, while it is open, the rows that the linears of a model route: `with RoutedRows(model) as rows: …`.

    `share` is their part of all rows (0…1), or None for a model in which no linear routes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.linears = [m for m in model.modules() if isinstance(m, QuantizedLinear) and m.routes]
        self.routed, self.seen = 0, 0
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> RoutedRows:
        self._handles = [linear.register_forward_pre_hook(self._count) for linear in self.linears]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _count(self, linear: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = linear.routed_rows(linear.prepare_input(inputs[0]))  # type: ignore[operator]
        self.routed += int(rows.sum())
        self.seen += rows.numel()

    @property
    def share(self) -> float | None:
        """Routed rows over all rows."""
        return self.routed / self.seen if self.seen else None
