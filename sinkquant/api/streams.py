"""Two streams of the same tokens: what the quantized model computes, and what the unquantized one would."""

from __future__ import annotations

from torch import Tensor

from sinkquant.calibration.walk import BlockRun
from sinkquant.models.roles import Site


class FloatStream:
    """The stream of the unquantized model, kept one block ahead of the quantization."""

    def __init__(self, inputs: list[Tensor]) -> None:
        """`inputs`: of the next block, one (B, T, D) a batch."""
        self.inputs = inputs
        self._rows: dict[str, list[Tensor]] = {}

    def advance(self, run: BlockRun) -> None:
        """Run the still unquantized block; keeps the input rows of every site and the block's outputs."""
        self._rows = {site.linears[0]: [] for site in run.roles.sites}
        hooks = []
        for name, kept in self._rows.items():
            module = run.module.get_submodule(name.removeprefix(run.roles.name + "."))

            def keep(_: object, args: tuple[Tensor, ...], kept: list[Tensor] = kept) -> None:
                kept.append(args[0].reshape(-1, args[0].shape[-1]))

            hooks.append(module.register_forward_pre_hook(keep))
        try:
            self.inputs = [run.forward(batch, self.inputs) for batch in run.batches()]
        finally:
            for hook in hooks:
                hook.remove()

    def take(self, site: Site) -> list[Tensor]:
        """The site's float inputs, (tokens, width) a batch; they are given away, to free the memory."""
        return self._rows.pop(site.linears[0])
