from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image

from sinkquant.errors import SinkquantError, UsageError
from sinkquant.inputs import classes
from sinkquant.inputs.images import image_batches, read_images
from sinkquant.inputs.sources import INPUTS

from .pictures import encoded, plain


def folder(where: Path, *names: str) -> str:
    """A folder of images; every one has its own color."""
    for number, name in enumerate(names):
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(encoded(plain((number, 0, 0))))
    return str(where)


def written(where: Path, name: str, text: str) -> None:
    (where / name).write_text(text, encoding="utf-8")


def labels_of(spec: str, **options: Any) -> dict[str, int | None]:
    images = read_images(spec, **options)
    return dict(zip(images.names, images.labels, strict=True))


SOURCES: dict[str, tuple[tuple[str, ...], dict[str, str], dict[str, int | None], tuple[str, ...]]] = {
    "sub-folders": (("b/x.png", "a/y.png", "a/deep/z.png"), {},
                    {"b/x.png": 1, "a/y.png": 0, "a/deep/z.png": 0}, ("a", "b")),
    "a folder around them": (("all/b/x.png", "all/a/y.png"), {}, {"all/b/x.png": 1, "all/a/y.png": 0}, ("a", "b")),
    "numbers": (("0017_jay.png", "3_hen.png"), {}, {"0017_jay.png": 17, "3_hen.png": 3}, ()),
    "numbers, several each": (("17_jay_1.png", "17_jay_2.png", "3_hen_1.png"), {},
                              {"17_jay_1.png": 17, "17_jay_2.png": 17, "3_hen_1.png": 3}, ()),
    "pictures counted through": (("001_img.png", "002_img.png", "003_img.png"), {},
                                 dict.fromkeys(("001_img.png", "002_img.png", "003_img.png")), ()),
    "names alone": (("x.png", "y.png"), {}, {"x.png": None, "y.png": None}, ()),
    "labels.csv": (("x.png", "in/y.png", "z.png"), {"labels.csv": "file_name,label\nx.png,4\ny.png,2\nno.png,1\n"},
                   {"x.png": 4, "in/y.png": 2, "z.png": None}, ()),
    "labels.jsonl": (("x.png", "y.png"),
                     {"labels.jsonl": '{"file": "x", "class": "hen"}\n{"file": "y", "class": "cat"}\n'},
                     {"x.png": 1, "y.png": 0}, ("cat", "hen")),
    "hidden files": (("x.png", ".y.png", ".git/z.png"), {}, {"x.png": None}, ()),
}  # fmt: skip


@pytest.mark.parametrize("case", SOURCES)
def test_classes_are_found(case: str, tmp_path: Path) -> None:
    names, files, expected, known = SOURCES[case]
    spec = folder(tmp_path, *names)
    for name, text in files.items():
        written(tmp_path, name, text)
    assert labels_of(spec) == expected
    assert read_images(spec).classes == known


def as_file(where: Path) -> str:
    return folder(where, "only.png") + "/only.png"


def as_jsonl(where: Path) -> str:
    folder(where, "in/x.png", "in/y.png")
    written(where, "rows.jsonl", '{"picture": "in/x.png", "label": 3}\n{"picture": "in/y.png", "label": 5}\n')
    return str(where / "rows.jsonl")


def as_column(where: Path) -> str:
    written(where, "rows.jsonl", json.dumps({"image": "none.png", "thumb": "in/x.png", "label": 3}))
    folder(where, "in/x.png")
    return str(where / "rows.jsonl:thumb")


def as_parquet(where: Path) -> str:
    rows = {
        "img": [{"bytes": encoded(plain()), "path": "x.png"}, {"bytes": encoded(plain()), "path": None}],
        "kind": [1, 0],
    }
    features = Features({"img": Image(), "kind": ClassLabel(names=["cat", "hen"])})
    Dataset.from_dict(rows, features=features).to_parquet(where / "rows.parquet")
    return str(where / "rows.parquet")


def as_data_set(where: Path) -> str:
    as_parquet(where)
    return f"datasets:{where}"


def as_image_folder(where: Path) -> str:
    return "datasets:" + folder(where, "train/hen/x.png", "train/cat/y.png")


TABLES: dict[Callable[[Path], str], tuple[list[int | None], tuple[str, ...]]] = {
    as_file: ([None], ()),
    as_jsonl: ([3, 5], ()),
    as_column: ([3], ()),
    as_parquet: ([0, 1], ("cat", "hen")),
    as_data_set: ([0, 1], ("cat", "hen")),
    as_image_folder: ([0, 1], ("cat", "hen")),
}


@pytest.mark.parametrize("source", TABLES)
def test_rows_and_data_sets_are_read(source: Callable[[Path], str], tmp_path: Path) -> None:
    images = read_images(source(tmp_path))
    expected, known = TABLES[source]
    assert sorted(images.labels, key=str) == expected
    assert images.classes == known
    assert all(image.mode == "RGB" and image.size == (6, 4) for image in images)


def test_a_registered_source_may_give_images() -> None:
    with INPUTS.registered("mine", lambda: iter([{"image": plain(), "label": 2}])):
        assert read_images("mine").labels == (2,)


def test_the_choice_takes_every_class_in_turn_and_follows_the_seed(tmp_path: Path) -> None:
    spec = folder(tmp_path, *(f"{kind}/{number}.png" for kind in "abc" for number in range(9)))
    chosen = [read_images(spec, count=6, seed=seed) for seed in (0, 0, 1)]
    assert all(sorted(images.labels) == [0, 0, 1, 1, 2, 2] for images in chosen)
    assert sorted(chosen[0].labels[:3]) == [0, 1, 2]
    assert chosen[0].names == chosen[1].names != chosen[2].names


def test_a_sorted_file_with_rows_still_gives_every_class(tmp_path: Path) -> None:
    folder(tmp_path, "x.png")
    rows = [json.dumps({"image": "x.png", "label": label}) for label in range(4) for _ in range(10)]
    written(tmp_path, "rows.jsonl", "\n".join(rows))
    assert sorted(read_images(str(tmp_path / "rows.jsonl"), count=4).labels) == [0, 1, 2, 3]


def test_broken_images_are_left_out_and_replaced_and_named(tmp_path: Path) -> None:
    spec = folder(tmp_path, *(f"{number}.png" for number in range(4)))
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "2.png").write_bytes(b"no")
    images = read_images(spec, count=2)
    assert sorted(images.names) == ["0.png", "3.png"]
    images = read_images(spec, count=9)
    assert "2 images, not the 9 asked for" in images.said
    assert "2 left out" in images.said and "1.png is empty" in images.said and "2.png is no image" in images.said


def nothing(where: Path) -> str:
    return str(where)


def no_images(where: Path) -> str:
    for name in ("a.txt", "b.txt", "c.heic"):
        written(where, name, "text")
    return str(where)


def all_broken(where: Path) -> str:
    written(where, "a.png", "")
    return str(where)


def only_rows(where: Path) -> str:
    written(where, "a.parquet", "")
    return str(where)


def labels_without_columns(where: Path) -> str:
    written(where, "labels.csv", "x.png,3\ny.png,4\n")
    return folder(where, "x.png")


def text_file(where: Path) -> str:
    written(where, "a.txt", "text")
    return str(where / "a.txt")


def rows_of_text(where: Path) -> str:
    written(where, "a.jsonl", '{"text": "hello", "n": 1}')
    return str(where / "a.jsonl")


def wrong_column(where: Path) -> str:
    return rows_of_text(where) + ":imag"


def no_rows(where: Path) -> str:
    written(where, "a.jsonl", "")
    return str(where / "a.jsonl")


def broken_parquet(where: Path) -> str:
    written(where, "a.parquet", "PAR1")
    return str(where / "a.parquet")


def no_split(where: Path) -> str:
    return as_data_set(where) + "::nosuch"


BROKEN: dict[Callable[[Path], str | None], str] = {
    nothing: r"is empty: give a folder of images",
    no_images: r"holds no image but 2 \.txt, 1 \.heic: give a folder of images",
    all_broken: r"no image of .* can be read, 1 left out \(a\.png is empty\): give",
    only_rows: r"holds no image but 1 \.parquet: read it as a data set with datasets:",
    labels_without_columns: r"names no file and label \(columns: x\.png, 3\): call the columns file_name and label",
    text_file: r"no image of .* can be read, 1 left out \(a\.txt is no image\)",
    rows_of_text: r"has no column with image \(columns: text, n\)",
    wrong_column: r"unknown column of .* 'imag': choose one of n, text",
    no_rows: r"has no column with image \(columns: none\)",
    broken_parquet: r"is not a readable parquet file",
    no_split: r"cannot be read .*check name, config and split",
    lambda _: None: r"the model sees images, and none are named: give a folder",
    lambda _: "python-docs": r"there is no folder or file of images python-docs",
    lambda where: str(where / "no"): r"there is no folder or file of images",
    lambda _: "a\0b": r"there is no folder or file of images",
}


@pytest.mark.parametrize("source", BROKEN)
def test_what_holds_no_images_is_refused_in_one_sentence(source: Callable[[Path], str | None], tmp_path: Path) -> None:
    with pytest.raises(SinkquantError, match=BROKEN[source]) as caught:
        read_images(source(tmp_path))
    assert "\n" not in str(caught.value)


def test_no_pillow_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = folder(tmp_path, "x.png")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UsageError, match=r"sinkquant\[vision\]"):
        read_images(spec)


IN_MODEL = [
    (("tench", "Irish wolf hound"), {0: "tench, Tinca tinca", 1: "hen", 2: "Irish_wolfhound"}, [0, 2]),
    (("crane", "hen"), {0: "crane", 1: "hen", 2: "crane"}, [None, 1]),  # two of one name: which is unknown
    (("2", "7"), {0: "a", 1: "b", 2: "c"}, [2, None]),
    (("n01", "n02"), {0: "LABEL_0", 1: "LABEL_1"}, [0, 1]),
    (("n01", "n02"), {0: "a", 1: "b", 2: "c"}, [None, None]),
]


@pytest.mark.parametrize(("names", "id2label", "expected"), IN_MODEL)
def test_classes_get_the_numbers_of_the_model(names: Any, id2label: Any, expected: Any) -> None:
    assert classes.in_model(names, SimpleNamespace(id2label=id2label)) == expected


def test_labels_that_the_model_has_not_are_unknown_and_said(tmp_path: Path) -> None:
    images = read_images(folder(tmp_path, "1_hen.png", "9_jay.png")).in_model(
        SimpleNamespace(id2label={0: "a", 1: "b"})
    )
    assert sorted(images.labels, key=str) == [1, None]
    assert "1 label unknown to the model, which has 2 classes" in images.said


def test_a_model_that_names_no_classes_gets_no_labels(tmp_path: Path) -> None:
    images = read_images(folder(tmp_path, "1_hen.png", "9_jay.png")).in_model(SimpleNamespace(id2label=None))
    assert (images.labels, images.classes) == ((None, None), ())
    assert "the model names no classes" in images.said


def processor(images: list[Any], return_tensors: str) -> dict[str, Any]:
    assert return_tensors == "pt"
    if len({image.size for image in images}) > 1:
        raise ValueError("Unable to create tensor. You should pad.")
    pixels = torch.tensor([[image.getpixel((0, 0))[0], *image.size] for image in images])
    return {"pixel_values": pixels, "sizes": [image.size for image in images]}


def test_batches_hold_what_the_processor_makes(tmp_path: Path) -> None:
    spec = folder(tmp_path, "a/0.png", "b/1.png", "b/2.png")
    images = read_images(spec)
    batches = image_batches(images, SimpleNamespace(image_processor=processor), 2)
    assert [len(batch) for batch in batches.items] == [2, 1] and batches.source == spec and batches.said == images.said
    pixels = torch.cat([batch.tensors["pixel_values"] for batch in batches.items])
    labels = torch.cat([batch.labels for batch in batches.items if batch.labels is not None])
    assert pixels[:, 0].tolist() == [int(Path(name).stem) for name in images.names]
    assert labels.tolist() == list(images.labels)
    assert all(set(batch.tensors) == {"pixel_values"} for batch in batches.items)


def test_batches_without_any_label_have_none(tmp_path: Path) -> None:
    batches = image_batches(read_images(folder(tmp_path, "0.png", "1.png")), processor, 2)
    assert batches.items[0].labels is None


def test_images_of_unequal_sizes_are_refused_where_the_processor_keeps_them(tmp_path: Path) -> None:
    folder(tmp_path, "0.png")
    (tmp_path / "1.png").write_bytes(encoded(plain(size=(9, 9))))
    with pytest.raises(
        UsageError, match=r"does not take the images .*Unable to create tensor\): give images of one size"
    ):
        image_batches(read_images(str(tmp_path)), processor, 2)


def test_text_does_not_import_pillow() -> None:
    code = "import sys, sinkquant.inputs.text, sinkquant.inputs.images as i; assert 'PIL' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
