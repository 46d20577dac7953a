"""Tests must be able to fail: break one thing after the other, and see that the tests named with it do.

`python -m tests.mutations [NAME …]` runs them all, or some, in a few minutes; `pytest -p tests.mutations --mutate NAME
TESTS` one, where success means that every one of TESTS failed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 2
CAUGHT = pytest.StashKey[set[str]]()


@dataclass(frozen=True)
class Mutation:
    """`place` ("module:name" or "module:Class.name") becomes `change(what it was)`; `tests` must notice."""

    place: str
    change: Callable[[Any], Any]
    tests: tuple[str, ...]

    def apply(self) -> None:
        """Before anything else imports the module, so that no other name holds the original."""
        module, path = self.place.split(":")
        *owners, name = path.split(".")
        owner: Any = import_module(module)
        for part in owners:
            owner = vars(owner)[part]
        setattr(owner, name, self.change(vars(owner)[name]))


def becomes(new: Any) -> Callable[[Any], Any]:
    """Whatever it was."""
    return lambda _: new


def first(*_: Any, **__: Any) -> Any:
    """A function of one argument that does nothing."""
    return _[0]


def rounded(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The weights that a site's rounding method gives, changed."""

    class Changed:
        def __init__(self, method: Any) -> None:
            self.method = method

        def __getattr__(self, name: str) -> Any:
            return getattr(self.method, name)

        def round(self, *arguments: Any) -> Any:
            return change(self.method.round(*arguments))

    return lambda method: property(lambda work: Changed(method.fget(work)))


def without_bias(from_linear: Any) -> Any:
    """Every linear that is replaced loses its bias."""

    def made(cls: Any, *arguments: Any, **more: Any) -> Any:
        linear = from_linear.__func__(cls, *arguments, **more)
        if linear.bias is not None:
            linear.bias.data.zero_()
        return linear

    return classmethod(made)


@contextmanager
def nothing(*_: Any, **__: Any) -> Iterator[None]:
    """A context that changes nothing."""
    yield


FAMILY = "tests/flow/test_matrix.py::test_a_cell[phi3-w4a8kv4-sink-aware]"
COMMAND = "tests/cli/test_cli_end_to_end.py::test_evaluate_compares_both"
RESUME = "tests/flow/test_resume.py"
GENERATION = "tests/flow/test_transform.py::test_generation_equals_the_prefix_in_context"
KINDS = "test_every_kind_comes_out_as_a_viewer_shows_it"
MUTATIONS = {
    "codes of zero": Mutation(
        "sinkquant.flow.site:SiteWork.method",
        rounded(lambda weight: replace(weight, codes=weight.codes * 0)),
        (FAMILY, COMMAND, RESUME),
    ),
    "scales doubled": Mutation(
        "sinkquant.flow.site:SiteWork.method",
        rounded(lambda weight: replace(weight, scale=weight.scale * 2)),
        (FAMILY, COMMAND, RESUME),
    ),
    "rotation left out at run time": Mutation("sinkquant.runtime.linear:fast_hadamard", becomes(first), (COMMAND,)),
    "bias left out": Mutation(
        "sinkquant.runtime.linear:QuantizedLinear.from_linear",
        without_bias,
        ("tests/flow/test_matrix.py::test_a_cell[opt-w4a8kv4-sink-aware]",),
    ),
    "inputs not rounded": Mutation(
        "sinkquant.runtime.linear:QuantizedLinear.quantize_input",
        becomes(lambda _, x: x),
        ("tests/runtime/test_packing.py",),
    ),
    "grey of 16 bits cut off": Mutation(
        "sinkquant.inputs.pictures:_eight_bits",
        becomes(first),
        tuple(
            f"tests/inputs/test_pictures.py::{KINDS}[{kind}]" for kind in ("16-bit", "16-bit-tiff", "32-bit", "float")
        ),
    ),
    "images in the order of the folder": Mutation(
        "sinkquant.inputs.image_files:in_turn",
        becomes(lambda entries, seed: iter(entries)),
        (
            "tests/inputs/test_images.py::test_the_choice_takes_every_class_in_turn_and_follows_the_seed",
            "tests/inputs/test_images.py::test_a_sorted_file_with_rows_still_gives_every_class",
        ),
    ),
    "decoder told what it is asked": Mutation(
        "sinkquant.inputs.pair_batches:_shifted",
        becomes(lambda model, tokenizer, labels, real: labels.clamp(min=0)),
        ("tests/inputs/test_pairs.py::test_batches_hold_the_source_and_the_target_shifted_right",),
    ),
    "spike units left out": Mutation(
        "sinkquant.runtime.linear:QuantizedLinear.spikes", becomes(lambda *_: None), ("tests/runtime/test_spikes.py",)
    ),
    "prefix left out": Mutation("sinkquant.runtime.kv:prepend", becomes(first), (GENERATION,)),
    "cache not rounded": Mutation(
        "sinkquant.runtime.kv:KVStage.quantized", becomes(lambda _, call, grids: call), ("tests/runtime/test_kv.py",)
    ),
    "cached keys not rounded": Mutation(
        "sinkquant.runtime.cached:CachedStage.__call__",
        becomes(lambda _, key, value: (key, value)),
        ("tests/runtime/test_cached.py::test_logits_are_those_of_a_reference",),
    ),
    "attention not ours": Mutation("sinkquant.models.attention:own_attention", becomes(nothing), (GENERATION,)),
    "norms folded into nothing": Mutation(
        "sinkquant.transforms.norms:fold_norm",
        lambda fold: lambda model, norm, readers, *_: fold(model, norm, ()),
        ("tests/flow/test_transform.py::test_a_trained_model",),
    ),
    "GPTQ without its Hessian": Mutation(
        "sinkquant.rounding.gptq:inverse_factor",
        lambda factor: lambda hessian, damping: factor(hessian, damping).diag().diag(),
        ("tests/rounding/test_gptq.py",),
    ),
    "budget not spent": Mutation(
        "sinkquant.sensitivity.spend:spend", becomes(lambda *_: ()), ("tests/sensitivity/test_spend.py",)
    ),
    "checksums ignored": Mutation(
        "sinkquant.formats.manifest:check_files",
        becomes(lambda *_: None),
        (
            "tests/flow/test_checkpoint.py::test_a_changed_byte_is_named",
            "tests/formats/test_manifest.py::test_every_flipped_bit_is_found",
        ),
    ),
    "blocks not resumed": Mutation(
        "sinkquant.formats.finished:ResumeStore.finished", becomes(property(lambda _: 0)), (RESUME,)
    ),
    "no token is a sink": Mutation(
        "sinkquant.sinks.classify:sink_tokens",
        lambda find: lambda *arguments: find(*arguments) & False,
        ("tests/sinks/test_planted.py",),
    ),
    "padding is pooled": Mutation(
        "sinkquant.tasks.embedding:pool",
        lambda pool: lambda states, real, modes: pool(states, real | True, modes),
        ("tests/tasks/test_text_tasks.py::test_bos_is_seen_and_not_counted",),
    ),
    "special tokens are masked": Mutation(
        "sinkquant.tasks.masked_lm:torch.isin",
        becomes(lambda ids, special: ids != ids),
        ("tests/tasks/test_masked_lm.py::test_a_share_of_real_text_is_masked_and_nothing_else",),
    ),
    "probes always agree": Mutation(
        "sinkquant.evaluation.probe:compare_probes",
        lambda compare: lambda stored, _: compare(stored, stored),
        ("tests/api/test_verify.py::test_a_prefix_that_is_lost_is_found",),
    ),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutate", choices=list(MUTATIONS), help="break this, and succeed if every given test fails")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    if early_config.known_args_namespace.mutate:
        MUTATIONS[early_config.known_args_namespace.mutate].apply()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CAUGHT] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        item.config.stash[CAUGHT].add(item.nodeid)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.option.mutate and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        failed = session.config.stash[CAUGHT]
        survived = [given for given in session.config.args if not any(one.startswith(given) for one in failed)]
        session.exitstatus = pytest.ExitCode.TESTS_FAILED if survived else pytest.ExitCode.OK
        print(*(f"\nnot noticed by {given}" for given in survived))


def check(name: str) -> str | None:
    """What went wrong, or None if the tests of this mutation failed as they should."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutations", "--mutate", name, *MUTATIONS[name].tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-2000:]


def main(names: list[str]) -> int:
    """Run the mutations of these names, or all; the exit code."""
    names, missed = names or list(MUTATIONS), 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for name, problem in zip(names, pool.map(check, names), strict=True):
            print(f"{name}: {'caught' if problem is None else problem}", flush=True)
            missed += problem is not None
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
