"""One recipe, one checkpoint: the stages in order."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sinkquant.errors import shown
from sinkquant.evaluation.metric import METRICS
from sinkquant.evaluation.probe import probe_ids, take_probe
from sinkquant.evaluation.score import RESULT, evaluate_one
from sinkquant.evaluation.versions import code_digest, versions
from sinkquant.flow.blocks import quantize_blocks
from sinkquant.flow.budget import spend_budget
from sinkquant.flow.detect import detect_loaded
from sinkquant.flow.estimate import estimate
from sinkquant.flow.export import export
from sinkquant.flow.loadable import loadable, refuse_unloadable
from sinkquant.flow.nonsense import reference, refuse_loss, refuse_strange
from sinkquant.flow.plan import Plan, make_plan, refuse_plan, weight_shapes
from sinkquant.flow.reloaded import check_reloaded, expected_logits
from sinkquant.flow.result import Options, Result
from sinkquant.flow.texts import prefix_of, read_texts, with_bos
from sinkquant.flow.timing import Stages, peak_memory
from sinkquant.flow.transform import check_batch, no_prefix, padded_logits, transform
from sinkquant.flow.tune import pieces, targets, tune
from sinkquant.formats.finished import Unfinished
from sinkquant.formats.folder import check_space
from sinkquant.formats.format import FORMATS
from sinkquant.formats.load import read
from sinkquant.formats.manifest import amend_manifest
from sinkquant.inputs.bos import bos_policy
from sinkquant.inputs.text import token_batches
from sinkquant.models.attention import implementations
from sinkquant.models.fingerprint import fingerprint
from sinkquant.models.finite import check_finite
from sinkquant.models.load import load_model, load_tokenizer
from sinkquant.models.roles import Roles
from sinkquant.models.side_files import left_out
from sinkquant.models.source import Source, local_folder, resolve
from sinkquant.models.trace import trace_roles
from sinkquant.quantization.scheme import LinearScheme, WeightScheme
from sinkquant.quantization.weights import round_to_nearest
from sinkquant.recipes import Recipe
from sinkquant.runtime.embedding import QuantizedEmbedding
from sinkquant.runtime.linear import QuantizedLinear
from sinkquant.runtime.modules import replace_module
from sinkquant.sinks.report import SinkReport
from sinkquant.transforms.norms import untie

DEFAULT_THRESHOLD = 64.0  # without a report: the ratio that PrefixQuant (arXiv 2410.05265) calls an outlier token


def run(
    model: str | Path,
    chosen: Recipe,
    options: Options,
    stores: Unfinished,
    *,
    revise: Callable[[SinkReport | None], tuple[Recipe, str]] | None = None,
) -> Result:
    """One recipe, one checkpoint. `revise` may replace the recipe after detection by one with the same calibration, and
    says why; finished blocks go to `stores`."""
    for name in chosen.proof.metrics:
        METRICS[name]  # an unknown one is an error before the work
    target, dry_run = options.output, options.dry_run
    calibration = options.calibration
    tell = options.progress or (lambda *_: None)
    stages = Stages(tell)

    with stages("load"):
        source = resolve(model, options.trust_remote_code)
        tokenizer = load_tokenizer(source)
        network = load_model(source, dtype=torch.float32)
        network.requires_grad_(False)
        check_finite(network)
        attention = implementations(network.config)
        roles = trace_roles(network)
        if revise is None:
            refuse_plan(chosen, roles)
            refuse_unloadable(chosen, network, roles)
        bos = bos_policy(chosen.calibration.bos, tokenizer)
        texts = read_texts(chosen, calibration, tokenizer, network, roles, bos)
        text, held_out = texts.calibration, texts.held_out
    report = None
    with stages("detect", steps=True):
        if chosen.sinks.prefix == "auto" or chosen.sinks.exclude:
            report = detect_loaded(
                network, roles, tokenizer, text, held_out, bos=bos, label=source.label,
                max_prefix=chosen.sinks.max_prefix, progress=lambda d, t: tell("detect", d, t),
            )  # fmt: skip
    why: list[str] = []
    if revise is not None:
        chosen, *why = revise(report)
        refuse_unloadable(chosen, network, roles)
    prefix = prefix_of(chosen, report)
    shapes = weight_shapes(network, roles)
    plan = make_plan(chosen, prefix, roles, shapes, no_prefix(network, roles, prefix, text))
    plan = loadable(plan, network, roles, shapes)
    plan = replace(plan, notes=(*why, *texts.notes, *_links(source), *plan.notes))
    if options.planned is not None:
        options.planned(plan, estimate(plan, shapes, text.numel()))
    if dry_run or target is None:
        return Result(None, plan, report, {}, stages.seconds, peak_memory())
    check_space(target.parents[1], plan.bytes)

    begins = tokenizer.bos_token_id if bos and tokenizer.bos_token_id not in plan.prefix else None
    ids, held_ids = (with_bos(part, begins) for part in (text, held_out))
    with stages("baseline"):
        baseline = evaluate_one(
            network, with_bos(held_out, tokenizer.bos_token_id if bos else None), scored=_scored(bos),
            metrics=chosen.proof.metrics,
        )  # fmt: skip
    with stages("transform"):
        threshold = report.threshold if report is not None else DEFAULT_THRESHOLD
        exactness = transform(network, roles, plan, ids, threshold)
    facts = {
        "recipe": chosen.model_dump(mode="json"), "recipe_digest": chosen.digest(), "model": source.label,
        "model_fingerprint": fingerprint(source), "prefix": list(plan.prefix), "bos": bos,
        "report": report.model_dump(mode="json") if report else None, "notes": list(plan.notes),
        "rotations": vars(plan.rotations),
    }  # fmt: skip
    figures: dict[str, Any] = {"transform_error": exactness}
    before = reference(network, ids)
    store = stores.open(_identity(facts, ids, threshold, network))
    if chosen.weights.budget is not None:
        with stages("sensitivity", steps=True):
            plan, figures["sensitivity"] = spend_budget(
                network, roles, plan, shapes, ids, threshold, store, lambda d, t: tell("sensitivity", d, t)
            )  # fmt: skip
        facts["notes"] = list(plan.notes)
    tuning = chosen.tuning
    if tuning.epochs:
        with stages("targets"):
            tuned_held = pieces(held_ids, tuning.length)
            tuned_on = torch.cat([pieces(ids, tuning.length, tuning.tokens), tuned_held])
            expected_states = targets(network, roles, tuned_on)
    with stages("quantize", steps=True):
        quantize_blocks(network, roles, plan, ids, threshold, store, lambda d, t: tell("quantize", d, t))
        _quantize_ends(network, roles, plan)
    gc.collect()
    if tuning.epochs:
        with stages("tune", steps=True):
            tuned = tune(
                network, roles, tuned_on, len(tuned_held), expected_states, tuning, lambda d, t: tell("tune", d, t)
            )
            del expected_states
            figures["tuning"] = vars(tuned) if tuned else "left out: logits are not the head behind the final norm"
    target.mkdir()
    with stages("export"):
        export(network, roles, plan, source, target, facts, figures)
    ours = FORMATS[chosen.target].ours
    with stages("prove"):
        rows, mask = check_batch(ids, 0)
        expected = expected_logits(network, rows, mask, None if ours else attention)
        del network
        gc.collect()
        reloaded = read(target, execution="stock", trust_remote_code=source.trusted)
        if chosen.proof.worst is not None:
            refuse_strange(reloaded, before)
        check_reloaded(padded_logits(reloaded, rows, mask), expected, ours=ours)
        outcome = evaluate_one(
            reloaded, held_ids, scored=_scored(begins is not None), who=RESULT, metrics=chosen.proof.metrics
        )
        vocabulary = before.logits.shape[-1]
        refuse_loss(reloaded, before, baseline.nll, outcome.nll, vocabulary, chosen.proof.worst)
        figures |= {
            "baseline_perplexity": baseline.perplexity, "result_perplexity": outcome.perplexity,
            "tokens": outcome.tokens, "text": "held-out part of the calibration text",
        }  # fmt: skip
        for when, score in (("baseline", baseline), ("result", outcome)):
            figures |= {f"{when}_{name}": figure for name, figure in score.figures.items()}
        probe = take_probe(reloaded, probe_ids(tokenizer, begins))
        measured = {"figures": figures, "probe": probe, "seconds": stages.seconds, "peak_bytes": stages.peaks}
        amend_manifest(target, measured)
    return Result(target, plan, report, figures, stages.seconds, peak_memory())


def _identity(facts: dict[str, Any], ids: Tensor, threshold: float, model: nn.Module) -> dict[str, Any]:
    """Everything that the bits of the quantized blocks depend on: sums are of another order with other threads."""
    names = ("recipe", "model_fingerprint", "prefix")
    machine = {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}
    return {name: facts[name] for name in names} | machine | {
        "text": token_batches(ids, "", "").digest, "threshold": threshold, "versions": versions(),
        "code": code_digest(model),
    }  # fmt: skip


def _links(source: Source) -> list[str]:
    """A note for every side file that is not copied because it is a link."""
    names = [] if source.gguf_file is not None else left_out(local_folder(source))
    return [f"{shown(name)} is a link, which is not followed: the checkpoint goes without it" for name in names]


def _scored(bos: bool) -> slice:
    """The same text tokens with and without BOS: the first text token is never scored."""
    return slice(2, None) if bos else slice(1, None)


def _quantize_ends(model: Any, roles: Roles, plan: Plan) -> None:
    """Embedding and head to 8 bits, where the recipe says so."""
    settings = plan.recipe.weights
    embedding_bits = plan.bits[roles.embedding] if roles.embedding is not None else 16
    if settings.head_bits == 16 and embedding_bits == 16:
        return
    if getattr(model.config, "tie_word_embeddings", False):
        untie(model, roles)
    if settings.head_bits < 16 and roles.head is not None:
        head = model.get_submodule(roles.head)
        scheme = LinearScheme(WeightScheme(settings.head_bits))
        assert scheme.weight is not None
        codes = round_to_nearest(head.weight, scheme.weight, search=True)
        replace_module(model, roles.head, QuantizedLinear.from_linear(head, scheme, codes))
    if embedding_bits < 16 and roles.embedding is not None:
        made = QuantizedEmbedding.from_embedding(model.get_submodule(roles.embedding))
        replace_module(model, roles.embedding, made)
