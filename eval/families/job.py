"""What sinkquant does to one built model: detect, then one recipe after the other, each to the loaded checkpoint."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.families.build import text
from eval.families.configs import BOS
from eval.runs import Row

DETECT = "detect"
RECIPES = ("w8a8-static", "w8a8", "w4a16", "w4a8kv4", "kv4")
SMALL = (
    "calibration.sequences=2", "calibration.length=64", "calibration.bos=always", "tuning.length=64",
    "export.dtype=float32",
)  # fmt: skip
SCORED, WRITTEN = 48, 4  # tokens that logits are compared on, and that are generated
WRONG = 0.9  # of the logits' spread: what says no more of the model than the mean of its logits does
UNFAITHFUL = 1e-3  # the same, of a forward pass that should be the model's own
TIE = 0.1  # of the logits' size: what roundings that fall the other way make of a toy's


def run(folder: Path, steps: Sequence[str], write: Callable[[Row], None]) -> None:
    """Hand a row a step to `write`; folder/model holds the model, checkpoints go beside it."""
    from sinkquant.models.transposed import with_linears

    source = folder / "model"
    prompt = torch.tensor([AutoTokenizer.from_pretrained(source)(text(40))["input_ids"][:SCORED]])
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    with_linears(model)
    begun = torch.cat([torch.tensor([[BOS]]), prompt], dim=1)
    sizes = block_sizes(model)
    reference, itself = logits(model, begun)[1:], cached_apart(model, begun)
    for step in steps:
        stages = ["load"]
        with judged(step, stages) as row:
            if step == DETECT:
                detect_step(row, source, model, begun)
            else:
                ids = quantize_step(row, source, folder / step, step, begun, sizes, stages)
                compare(row, folder / step, ids, reference, itself)
        write(row)


@contextmanager
def judged(step: str, stages: list[str]) -> Iterator[Row]:
    """A row whose status is what comes out of the context."""
    from sinkquant.errors import SinkquantError

    row: Row = {"recipe": step, "status": "ok"}
    try:
        yield row
    except SinkquantError as error:
        row |= {
            "status": "refused" if stages[-1] == "load" else "refused late",
            "stage": stages[-1],
            "says": str(error),
        }
    except Exception as error:  # what comes out is what is looked for
        row |= {"status": "traceback", "stage": stages[-1], "says": cause(error)}


def cause(error: Exception) -> str:
    """The exception in a line, with the project's last frame and the last one at all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/sinkquant/" in frame.filename]
    places = dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in (*own[-1:], frames[-1]))
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({', '.join(places)})"


def detect_step(row: Row, source: Path, model: Any, begun: Tensor) -> None:
    """The report, and whether it was made on the model's own forward pass."""
    import sinkquant
    from sinkquant.models.attention import own_attention
    from sinkquant.models.trace import trace_roles

    report = sinkquant.detect(source, calibration=str(source.parent / "text.txt"), bos="always")
    row |= {"verdict": [str(v) for v in report.verdict], "prefix": list(report.prefix.ids)}
    plain = logits(model, begun)
    with own_attention(model, trace_roles(model).attends):
        row["error"] = relative(logits(model, begun), plain)
    if not row["error"] <= UNFAITHFUL:
        row |= {"status": "wrong", "says": "the report was made on another forward pass than the model's own"}


def quantize_step(
    row: Row, source: Path, out: Path, recipe: str, begun: Tensor, sizes: dict[str, int], stages: list[str]
) -> Tensor:
    """Write the checkpoint; returns the tokens (1, T) to give to it, without a BOS that it carries as prefix."""
    import sinkquant

    done = sinkquant.quantize(
        source, recipe=recipe, output=out, overrides=SMALL, calibration=str(source.parent / "text.txt"),
        progress=lambda stage, *_: stages.append(stage),
    )  # fmt: skip
    row |= {"prefix": list(done.plan.prefix), "transform_error": done.figures["transform_error"]}
    row |= {"notes": list(done.plan.notes), "float_share": float_share(sizes, done.plan)}
    return begun[:, 1:] if BOS in done.plan.prefix else begun


def compare(row: Row, out: Path, ids: Tensor, reference: Tensor, itself: float) -> None:
    """Error of the loaded checkpoint, and whether it generates with a cache what it generates without."""
    import sinkquant

    model = sinkquant.load(out, dtype=torch.float32)
    got = logits(model, ids)
    torch.save({"ids": ids, "logits": got}, out.with_suffix(".pt"))
    row["error"] = relative(got[-len(reference) :], reference)
    row["cached"] = cached_apart(model, ids)
    if not row["error"] <= WRONG:
        row |= {"status": "wrong", "says": "the checkpoint has nothing in common with the model"}
    elif itself <= UNFAITHFUL and not row["cached"] <= TIE:  # a model that differs from itself proves nothing
        row |= {"status": "wrong", "says": "generation with a cache differs from generation without"}


def logits(model: Any, ids: Tensor) -> Tensor:
    """(T, V) of one row of tokens (1, T)."""
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits[0].float()


def relative(got: Tensor, expected: Tensor) -> float:
    """|got − expected| / |expected − its mean over tokens|, without the planted token, whose tied row is huge."""
    kept = torch.arange(expected.shape[1]) != BOS
    return relative_rows(got[:, kept], expected[:, kept])


def relative_rows(got: Tensor, expected: Tensor) -> float:
    """|got − expected| / |expected − its mean over rows|."""
    return float((got - expected).norm() / (expected - expected.mean(0)).norm())


def cached_apart(model: Any, ids: Tensor) -> float:
    """How far the logits of a greedy continuation with a cache are from those without, of their size.

    Up to where the first choices part, if they do: rounding on either side of a tie is no fault of the cache.
    """
    try:
        with torch.no_grad():
            made = [
                model.generate(
                    input_ids=ids, max_new_tokens=WRITTEN, min_new_tokens=WRITTEN, do_sample=False, use_cache=cached,
                    output_logits=True, return_dict_in_generate=True,
                )
                for cached in (True, False)
            ]  # fmt: skip
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError):
        return float("inf")
    same = int((made[0].sequences == made[1].sequences).cumprod(1).sum()) - ids.shape[1]
    cached, plain = (torch.cat(one.logits[: same + 1]).float() for one in made)
    kept = torch.arange(plain.shape[1]) != BOS
    return float((cached[:, kept] - plain[:, kept]).norm() / plain[:, kept].norm())


def block_sizes(model: Any) -> dict[str, int]:
    """Number of weights of every matrix inside the blocks; nothing where no blocks are found."""
    from sinkquant.errors import SinkquantError
    from sinkquant.models.trace import trace_roles

    try:
        inside = trace_roles(model).list_name + "."
    except (SinkquantError, TypeError, AttributeError, ValueError, RuntimeError, IndexError):
        return {}
    return {n: p.numel() for n, p in model.named_parameters() if n.startswith(inside) and p.dim() >= 2}


def float_share(sizes: dict[str, int], plan: Any) -> float | None:
    """Share of the blocks' weights that stay in float; None where the recipe leaves the weights alone."""
    if all(scheme.weight is None for scheme in plan.linears.values()):
        return None
    rounded = sum(prod(plan.shapes[name]) for name, scheme in plan.linears.items() if scheme.weight)
    return 1 - rounded / sum(sizes.values())
