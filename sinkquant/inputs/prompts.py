"""A conversation about images as the text that a processor takes, in front of the answer and with it."""

from __future__ import annotations

from typing import Any, NamedTuple

from sinkquant.errors import UsageError
from sinkquant.inputs.chat import Turns

PLACE = "<image>"
"""How files write where an image stands."""


class Prompt(NamedTuple):
    """`asked`: the text up to the answer; `whole`: with it and whatever ends it."""

    asked: str
    whole: str


def prompt(turns: Turns, answer: str, images: int, processor: Any) -> Prompt:
    """`turns` and `answer` through the processor's chat template, images where PLACE stands, else in front of the first
    question.

    A single question with the model's own image token in it is taken as it is, and so is the answer behind it; so is
    everything where there is no template.

    Raises UsageError where the turns have another number of places than there are images, and for turns that the
    template refuses.
    """
    own = image_token(processor)
    if own is not None and len(turns) == 1 and own in turns[0]["content"]:
        return Prompt(turns[0]["content"], turns[0]["content"] + answer)
    turns = _placed(turns, images)
    more = [{"role": "assistant", "content": answer}]
    if getattr(processor, "chat_template", None) is None:
        asked = "\n".join(turn["content"] for turn in turns).replace(PLACE, own or PLACE)
        return Prompt(asked, f"{asked} {answer}")
    typed = _rendered(processor, _typed(turns), _typed(more))
    without = _rendered(processor, _typed(_bare(turns)), _typed(more))
    if typed is not None and typed != without:
        return typed
    plain = [{**turn, "content": turn["content"].replace(PLACE, own or PLACE)} for turn in turns]
    made = _rendered(processor, plain, more)
    if made is None or own is None:
        raise UsageError(
            "the model's chat template takes no images: give questions that have the model's own image token in them "
            "and their answers, which are then used as they are."
        )
    return made


def image_token(processor: Any) -> str | None:
    """What stands for an image in the text that a processor takes."""
    names = ("boi_token", "image_token")
    return next((str(token) for name in names if (token := getattr(processor, name, None))), None)


def _placed(turns: Turns, images: int) -> Turns:
    there = sum(turn["content"].count(PLACE) for turn in turns)
    if there == images:
        return turns
    if there:
        raise UsageError(f"a conversation has {there} places {PLACE} for {images} images: give one for each, or none.")
    first = next(place for place, turn in enumerate(turns) if turn["role"] != "system")
    front = "".join(f"{PLACE}\n" for _ in range(images))
    return [{**t, "content": front + t["content"]} if place == first else t for place, t in enumerate(turns)]


def _bare(turns: Turns) -> Turns:
    return [{**turn, "content": turn["content"].replace(PLACE, "")} for turn in turns]


def _typed(turns: Turns) -> list[dict[str, Any]]:
    """With content as a list of parts."""
    made = []
    for turn in turns:
        parts: list[dict[str, str]] = []
        for number, text in enumerate(turn["content"].split(PLACE)):
            parts += [{"type": "image"}] if number else []
            parts += [{"type": "text", "text": text.strip("\n")}] if text.strip() else []
        made.append({"role": turn["role"], "content": parts})
    return made


def _rendered(processor: Any, turns: Any, more: Any) -> Prompt | None:
    """None where the template refuses."""
    try:
        asked = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return Prompt(str(asked), str(processor.apply_chat_template([*turns, *more], tokenize=False)))
    except Exception:  # a template may raise anything
        return None
