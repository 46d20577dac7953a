"""Texts that strain static ranges, made from what every machine has."""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import Tensor

from sinkquant.evaluation.windows import text_windows
from sinkquant.inputs.python_docs import python_docs

MODULES = ("textwrap", "heapq", "fractions", "csv", "bisect", "shlex", "sched", "queue")

SENTENCES = (
    "Der alte Müller stand jeden Morgen vor Sonnenaufgang auf, weil das Wasser des Baches dann am kältesten war und "
    "das Rad sich leichter drehte. Seine Tochter brachte ihm Brot, Käse und einen Krug Milch, den sie auf die Bank "
    "neben der Tür stellte.",
    "Le train s'arrêta au milieu de la plaine sans que personne ne sût pourquoi. Quelques voyageurs descendirent, "
    "allumèrent une lampe et regardèrent longtemps les étoiles, pendant que le mécanicien cherchait ses outils sous la "
    "neige fraîche.",
    "La biblioteca del pueblo cerraba a las ocho, pero doña Elena dejaba siempre una ventana abierta para que los "
    "gatos pudieran entrar. Nadie se quejaba: los ratones habían desaparecido y los libros olían otra vez a papel.",
    "O barco chegou ao porto com três dias de atraso e sem o mastro maior. Os pescadores ajudaram a descarregar as "
    "caixas de laranjas, e as crianças correram pela praia à procura das que tinham caído na água.",
    "Stary zegar na wieży ratusza spóźniał się o siedem minut, lecz nikt nie chciał go naprawić. Mieszkańcy umawiali "
    "się na spotkania według własnego czasu, a przyjezdni dziwili się, że zawsze są za wcześnie.",
    "Зимой река замерзала так крепко, что по ней ездили на санях до соседнего города. Летом же она становилась "
    "широкой и спокойной, и по вечерам над водой стоял густой белый туман, в котором пели лягушки.",
    "Ο δάσκαλος έγραψε στον πίνακα έναν μακρύ αριθμό και ρώτησε ποιος μπορεί να τον διαιρέσει με το επτά. Όλοι "
    "σώπασαν, ώσπου η μικρότερη μαθήτρια σήκωσε το χέρι της και χαμογέλασε.",
    "春になると、川沿いの桜が一斉に咲き始めます。町の人々は仕事を早めに終えて、弁当と温かいお茶を持って集まり、夜遅くまで歌を歌います。",
    "那座小山后面有一个很深的湖，湖水清得可以看见底下的石头。每年秋天，村里的老人都会坐在岸边讲故事，孩子们一边听一边把树叶放进水里。",
    "كان البائع العجوز يضع سلال التمر أمام دكانه كل صباح، ثم يجلس تحت الشجرة ويقرأ الجريدة. لم يكن يرفع صوته "
    "أبدا، لكن الناس كانوا يأتون إليه من كل أحياء المدينة.",
    "पहाड़ के नीचे एक छोटा सा गाँव था जहाँ हर घर के सामने आम का पेड़ लगा था। बरसात के दिनों में बच्चे नाव बनाकर "
    "पानी में छोड़ते थे और बूढ़े लोग बरामदे में बैठकर चाय पीते थे।",
    "Mzee alikuwa akitembea polepole kando ya bahari akitafuta kamba za nyavu zilizochukuliwa na mawimbi. Jua "
    "lilipozama, aliwasha moto mdogo na kuwasimulia wajukuu wake hadithi ya samaki mkubwa.",
)  # fmt: skip


def stress_windows(
    tokenizer: Any, *, window: int, tokens: int, extra: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Windows (N, window) of token ids by name; the plain text is the evaluation half of Python's documentation.

    `extra`: more texts by name, which come first.
    """
    plain = "".join(python_docs("evaluation"))

    def cut(text: str) -> Tensor:
        return text_windows(text, tokenizer, window=window, max_tokens=tokens)

    return {name: cut(text) for name, text in (extra or {}).items()} | {
        "documentation": cut(plain),
        "second BOS in every window": second_bos(cut(plain), tokenizer.bos_token_id),
        "other languages": cut("\n\n".join(SENTENCES)),
        "code": cut("\n\n".join(inspect.getsource(import_module(name)) for name in MODULES)),
        "long runs of spaces": cut(spaced(plain[: 8 * tokens], seed=0)),
    }


def second_bos(windows: Tensor, bos: int) -> Tensor:
    """The windows with BOS in the place of their middle token."""
    marked = windows.clone()
    marked[:, marked.shape[1] // 2] = bos
    return marked


def spaced(text: str, *, seed: int) -> str:
    """Every twentieth space of `text`, or so, drawn out to a run of up to 400."""
    draw = random.Random(seed)
    return "".join(" " * draw.randint(2, 400) if letter == " " and draw.random() < 0.05 else letter for letter in text)
