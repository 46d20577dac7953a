from __future__ import annotations

import re
from pathlib import Path

import pytest

from sinkquant.errors import UsageError
from sinkquant.recipes import load_recipe, resolve_text


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def refusal(name: str | Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(name)
    return str(caught.value)


def test_own_keys_win_over_imports_and_later_imports_over_earlier(tmp_path: Path) -> None:
    write(
        tmp_path,
        first="weights: {bits: 2, damping: 0.1}\nkv_cache: {bits: 2}",
        second="weights: {bits: 3, act_order: false}",
        mine="imports: [w4a4kv4, first.yaml, second.yaml]\nweights: {bits: 8}\ndescription: mine",
    )
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert (recipe.weights.bits, recipe.weights.damping, recipe.weights.act_order) == (8, 0.1, False)
    assert (recipe.weights.method, recipe.kv_cache.bits, recipe.description) == ("gptq", 2, "mine")


def test_a_file_is_named_after_itself_unless_it_says_otherwise(tmp_path: Path) -> None:
    write(tmp_path, mine="imports: [kv4]", yours="imports: [./mine.yaml]\nname: theirs", ours="imports: [yours.yaml]")
    names = [load_recipe(str(tmp_path / f"{name}.yaml")).name for name in ("mine", "yours", "ours")]
    assert names == ["mine", "theirs", "ours"]


def test_imports_are_relative_to_the_file_that_has_them(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts", a="imports: [b.yaml]", b="imports: [kv4]\nkv_cache: {bits: 2}")
    write(tmp_path, mine="imports: [parts/a.yaml]")
    assert load_recipe(tmp_path / "mine.yaml").kv_cache.bits == 2


def test_the_same_import_twice_is_no_circle(tmp_path: Path) -> None:
    write(tmp_path, base="imports: [kv4]", a="imports: [base.yaml]", mine="imports: [a.yaml, base.yaml]")
    assert load_recipe(tmp_path / "mine.yaml").kv_cache.bits == 4


def test_overrides_are_applied_in_order() -> None:
    recipe = load_recipe("w4a16", ["weights.bits=3", "weights.bits=4", "weights={damping: 1e-3, group_size: 64}"])
    assert (recipe.weights.bits, recipe.weights.damping, recipe.weights.group_size) == (4, 0.001, 64)


def test_resolved_text_is_the_recipe_in_full(tmp_path: Path) -> None:
    write(tmp_path, full=resolve_text("w4a4kv4"))
    assert "imports" not in resolve_text("w4a4kv4")
    assert load_recipe(tmp_path / "full.yaml") == load_recipe("w4a4kv4")


def test_an_unknown_name_offers_the_nearest() -> None:
    assert refusal("w4a4kv") == (
        "unknown recipe 'w4a4kv': did you mean 'w4a4kv4'? "
        "choose one of kv4, w4a16, w4a4kv4, w4a8kv4, w8a8, w8a8-npu, w8a8-static."
    )


def test_a_fragment_is_no_recipe() -> None:
    assert refusal("_portable") == (
        "unknown recipe '_portable': choose one of kv4, w4a16, w4a4kv4, w4a8kv4, w8a8, w8a8-npu, w8a8-static."
    )


def test_an_unknown_import_names_the_file(tmp_path: Path) -> None:
    write(tmp_path, mine="imports: [_portabel]")
    assert refusal(tmp_path / "mine.yaml") == (
        "unknown import in mine.yaml '_portabel': did you mean '_portable'? "
        "choose one of _calibration, _low-bit, _portable, _sink-aware, kv4, w4a16, w4a4kv4, w4a8kv4, w8a8, w8a8-npu, "
        "w8a8-static."
    )


def test_a_circle_of_imports_is_named(tmp_path: Path) -> None:
    write(tmp_path, start="imports: [a.yaml]", a="imports: [b.yaml]", b="imports: [a.yaml]")
    assert refusal(tmp_path / "start.yaml") == (
        "recipes import each other in a circle, a.yaml -> b.yaml -> a.yaml: remove one of these imports."
    )


@pytest.mark.parametrize(("imports", "shown"), [("kv4", "kv4"), ("[kv4, 3]", "['kv4', 3]"), ("", "null")])
def test_imports_that_are_no_list_of_names(tmp_path: Path, imports: str, shown: str) -> None:
    write(tmp_path, mine=f"imports: {imports}")
    path = tmp_path / "mine.yaml"
    assert refusal(path) == f"imports in {path} is {shown} but must be a list of recipe names and paths."


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "no.yaml"
    assert refusal(path) == (
        f"there is no recipe file {path}: give the path of a YAML file, or a name that `sinkquant recipes` lists."
    )


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"the recipe file {tmp_path} cannot be read (is a directory): give a readable YAML file."
    )


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("name: a\nweights: {bits: 4", 2, "expected ',' or '}', but got '<stream end>'"),
        ("name: a\n[b]: c\n", 2, "found unhashable key"),
        ("name: a\nb: c: d\n", 2, "mapping values are not allowed here"),
        ("weights: {bits: 4}\nname: a\nweights: {}\n", 3, "weights appears twice"),
        ("weights: {bits: 4, bits: 8}", 1, "bits appears twice"),
        ("a: &a [1]\nb: [*a, *a]", 2, "the alias *a is not read here, write out what it stands for"),
        ("name: &a [*a]", 1, "the alias *a is not read here"),
        ("weights: &w {bits: 4}\nactivations:\n  <<: *w", 3, "the alias *w is not read here"),
        ("name: !!python/object:os.system {}", 1, "could not determine a constructor for the tag"),
    ],
)
def test_a_syntax_error_names_file_and_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    write(tmp_path, mine=text)
    message = refusal(tmp_path / "mine.yaml")
    assert message.startswith(f"{tmp_path / 'mine.yaml'} is not valid YAML at line {line} ({problem}")
    assert message.endswith("): correct that line.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: " + "[" * 3000 + "]" * 3000, r"is nested too deeply: "),
        ("".join("  " * i + "a:\n" for i in range(1200)), r"(holds more than 1000000 bytes|is nested too deeply)"),
        ("name: a\n" + "#" * 10**6, r"holds more than 1000000 bytes, which no recipe does"),
        ("imports: [kv4]\n4: 5", r"unknown recipe key '4'"),
        ("imports: [kv4]\nnull: 5", r"unknown recipe key 'null'"),
        ("imports: [kv4]\nweights: {4: 5}", r"unknown recipe key 'weights.4'"),
        ("imports: [kv4]\nweights: {2020-01-01: 5}", r"unknown recipe key 'weights.2020-01-01'"),
        ("imports: [kv4]\n? [name]\n: 5", r"is not valid YAML at line 2 \(found unhashable key"),
        ("imports: [kv4]\neffort: [best]", r"effort is \['best'\] but must be"),
    ],
)
def test_structure_that_no_recipe_has(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, mine=text)
    found = refusal(tmp_path / "mine.yaml")
    assert re.search(message, found)
    assert "\n" not in found
    assert len(found) < 600


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfimports: [kv4]\r\nkv_cache: {bits: 2}\r\n")
    assert load_recipe(tmp_path / "mine.yaml").kv_cache.bits == 2


def test_imports_that_meet_again_are_read_once(tmp_path: Path) -> None:
    for i in range(28):
        write(tmp_path, **{f"r{i}": f"imports: [r{i + 1}.yaml, ./r{i + 1}.yaml]"})
    write(tmp_path, r28="imports: [kv4]\nkv_cache: {bits: 2}")
    assert load_recipe(tmp_path / "r0.yaml").kv_cache.bits == 2


def test_a_chain_of_imports_without_end(tmp_path: Path) -> None:
    for i in range(60):
        write(tmp_path, **{f"r{i}": f"imports: [r{i + 1}.yaml]"})
    assert refusal(tmp_path / "r0.yaml") == (
        f"{tmp_path / 'r0.yaml'} imports more than 50 files one behind the other: shorten the chain."
    )


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"name: \x00", b"name: 2020-99-99"])
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert refusal(path) == f"{path} is no YAML text: give a recipe file in UTF-8."


@pytest.mark.parametrize("text", ["", "- kv4", "kv4"])
def test_a_file_without_sections(tmp_path: Path, text: str) -> None:
    write(tmp_path, mine=text)
    path = tmp_path / "mine.yaml"
    assert refusal(path) == f"{path} holds no recipe: write its sections as `key: value` lines."


@pytest.mark.parametrize(
    "name", ["a\0b.yaml", "a\0b", "x" * 5000 + ".yaml", "~nobody_of_that_name/a.yaml", "/dev/zero.yaml/a"]
)
def test_a_path_that_cannot_be(name: str) -> None:
    assert re.search(r"zero byte|cannot be read|there is no recipe file", refusal(name))


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").symlink_to("mine.yaml")
    assert "cannot be read (too many levels of symbolic links)" in refusal(tmp_path / "mine.yaml")
