"""The prefix: which tokens, in front of any text, take the sinks upon themselves (absorption test)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sinkquant.inputs.bos import in_front
from sinkquant.models.roles import Roles
from sinkquant.sinks.classify import sink_tokens
from sinkquant.sinks.observe import Observation, observe
from sinkquant.sinks.report import PrefixChoice, ResidualSink, Trial

DOWN_RATIO = 20.0  # a down projection's input beyond this breaks a static range
START, STARTS = 32, 32  # tokens of a text start, and how many a leading token is tried on


class Texts(Protocol):
    """The word for a token id."""

    def __getitem__(self, token: int) -> str: ...


class Absorbs(Protocol):
    """One prefix in front of held-out samples, or none: what is left, and the signals behind it."""

    def run(self, prefix: tuple[int, ...]) -> tuple[Trial, Observation]: ...

    def run_without(self) -> tuple[Trial, Observation]: ...


@dataclass(frozen=True, eq=False)
class PrefixTest:
    """What the absorption test needs. `windows` (M, T) are held-out text without BOS, `usual` what precedes it."""

    model: Any
    roles: Roles
    windows: Tensor
    usual: tuple[int, ...]  # (BOS,) where every sequence begins with it, else ()
    threshold: float

    def run(self, prefix: tuple[int, ...]) -> tuple[Trial, Observation]:
        """Put `prefix` in front of the windows; sinks and medians are those of the text behind it."""
        seen = observe(self.model, self.roles, in_front(self.windows, prefix), plain=1).text(len(prefix))
        left = int(sink_tokens(seen, self.threshold).sum())
        return Trial(ids=prefix, sinks_left=left, loss=text_loss(self.model, self.windows, prefix)), seen

    def run_without(self) -> tuple[Trial, Observation]:
        """The text as it is usually given; a BOS in front of it counts as a sink like any token."""
        seen = observe(self.model, self.roles, in_front(self.windows, self.usual), plain=1)
        left = int(sink_tokens(seen, self.threshold).sum())
        return Trial(ids=(), sinks_left=left, loss=text_loss(self.model, self.windows, self.usual)), seen


def text_loss(model: nn.Module, windows: Tensor, prefix: tuple[int, ...]) -> float | None:
    """Mean loss in nats of tokens 1… of every window, each behind `prefix` in context; None for models that predict
    no tokens."""
    losses = []
    with torch.no_grad():
        for ids in in_front(windows, prefix):
            outputs = model(input_ids=ids[None], use_cache=False)
            if "logits" not in outputs:
                return None
            logits = outputs.logits[0]
            losses.append(cross_entropy(logits[len(prefix) : -1].float(), ids[len(prefix) + 1 :]))
    return float(torch.stack(losses).mean())


def no_prefix(test: PrefixTest, reason: str) -> tuple[PrefixChoice, Observation]:
    """An empty prefix, said why."""
    trial, seen = test.run_without()
    return _choice(trial, [trial], (), reason, trial.loss), seen


def choose_leading(test: PrefixTest, candidates: list[int], begin: int | None) -> tuple[int, dict[int, int]]:
    """Which token leads the prefix of a positional sink: the one behind which the fewest text starts have a sink.

    Any token at the first position becomes the sink, but not every one keeps the next token from becoming one too.
    Chat prompts and many tokenizers bring a BOS of their own, so every start is also tried with `begin` in front.
    Returns the token and the sinks left behind each candidate; the earlier candidate wins a tie.
    """
    starts = test.windows[:, : test.windows.shape[1] // START * START].reshape(-1, START)[:STARTS]
    if begin is not None:
        starts = torch.cat([starts, in_front(starts[:, :-1], begin)])
    left = {}
    for token in candidates:
        seen = observe(test.model, test.roles, in_front(starts, token), plain=1).text(1)
        left[token] = int(sink_tokens(seen, test.threshold).sum())
    return min(candidates, key=lambda token: left[token]), left


def choose_prefix(
    test: Absorbs, candidates: list[int], texts: Texts, max_prefix: int
) -> tuple[PrefixChoice, Observation]:
    """The shortest prefix of `candidates` (best first; its first stands for BOS) that leaves no sink, or on which one
    more token does not improve. Returns it with the signals behind it."""
    best, seen = test.run_without()
    without, trials, refused = best, [best], False
    if best.sinks_left == 0:
        return _choice(best, trials, (), "the held-out text shows no sink: nothing to absorb", best.loss), seen
    for length in range(1, min(max_prefix, len(candidates)) + 1):
        trial, behind = test.run(tuple(candidates[:length]))
        trials.append(trial)
        if trial.sinks_left >= best.sinks_left:
            refused = True
            break
        best, seen = trial, behind
        if best.sinks_left == 0:
            break
    if len(best.ids) > 1:  # BOS first or last is decided by loss
        trial, behind = test.run((*best.ids[1:], best.ids[0]))
        trials.append(trial)
        better = trial.loss is not None and best.loss is not None and trial.loss < best.loss
        if trial.sinks_left <= best.sinks_left and better:
            best, seen = trial, behind
    tokens = tuple(texts[i] for i in best.ids)
    if not best.ids:
        reason = "no candidate in front of the text reduces the number of its sinks"
    elif best.sinks_left == 0:
        shown = " ".join(map(repr, tokens))
        reason = f"with {shown} in front no sink is left of {without.sinks_left} in the held-out text"
    else:
        more = "one more token does not help" if refused else "no further candidate was allowed or known"
        reason = f"{best.sinks_left} of {without.sinks_left} sinks are left in the held-out text and {more}"
    return _choice(best, trials, tokens, reason, without.loss), seen


def _choice(
    best: Trial, trials: list[Trial], tokens: tuple[str, ...], reason: str, loss_without: float | None
) -> PrefixChoice:
    return PrefixChoice(
        ids=best.ids, tokens=tokens, reason=reason, absorbed=best.sinks_left == 0, left=best.sinks_left,
        trials=tuple(trials), loss_without=loss_without, loss_with=best.loss,
    )  # fmt: skip


def residual_sinks(seen: Observation, threshold: float, texts: Texts) -> tuple[ResidualSink, ...]:
    """Tokens that stand out with the prefix in place: at the down projection's input, or in the stream."""
    down, stream = seen.down_ratio, seen.residual_ratio
    hits = (down >= DOWN_RATIO) | (stream >= threshold)  # (L, M, T)
    ratio = torch.where(hits, torch.maximum(down, stream), 0.0)
    found = []
    for token in seen.ids[hits.any(dim=0)].unique().tolist():
        mine = hits & (seen.ids == token)
        found.append(
            ResidualSink(
                token=texts[token],
                token_id=token,
                blocks=tuple(mine.flatten(1).any(dim=1).nonzero().flatten().tolist()),
                ratio=float(ratio[mine].max()),
                count=int(mine.any(dim=0).sum()),
            )
        )
    return tuple(sorted(found, key=lambda sink: -sink.ratio))
