"""Wide patterns, class folders, and tables in any dialect."""

import re

import pandas as pd
import pytest
from folders import picture, table
from hypothesis import given
from hypothesis import strategies as st

from pipeline.competitions.dialect import delimiter
from pipeline.competitions.paths import class_folders, locate, regex, walk
from pipeline.competitions.tables import read_csv
from pipeline.store.errors import UserError


def put(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_walk_takes_images_only_and_follows_a_link_once(tmp_path):
    put(tmp_path, "b/2.PNG", "b/1.jpg", "a.tif", ".hidden.png", ".git/x.png", "__MACOSX/y.png", "b/1.json", "noending")
    (tmp_path / "b/up").symlink_to(tmp_path)
    assert list(walk(tmp_path)) == ["a.tif", "b/1.jpg", "b/2.PNG"]
    assert list(walk(tmp_path, "b"))[:2] == ["b/1.jpg", "b/2.PNG"]


@pytest.mark.parametrize(
    "path, want",
    [
        ("train/1.png", "train/1.png"),
        ("train/**/1.png", "train/x/y/1.png"),
        ("train/**/2.png", "train/2.png"),
        ("train/x/3.*", "train/x/3.jpeg"),
        ("train/**/3.*", "train/x/3.jpeg"),
        ("train/**/red/1.png", "train/c/red/1.png"),
        ("**/only.png", "train/z/only.png"),
    ],
)
def test_locate(path, want, tmp_path):
    put(
        tmp_path,
        "train/x/y/1.png",
        "train/2.png",
        "train/x/3.jpeg",
        "train/x/3.json",
        "train/x/33.jpeg",
        "train/z/only.png",
    )
    if "red" in path:
        put(tmp_path, "train/c/red/1.png")
    assert locate(tmp_path, ["i"], [path]) == [want]


@pytest.mark.parametrize(
    "path, said",
    [
        ("train/**/9.png", "id 'i' has no image that fits .*train/.*9.png: check images.pattern"),
        ("train/**/1.png", r"id 'i' has 2 images \(train/a/1.png, train/b/1.png\)"),
        ("train/a/1.*", r"has 2 images"),
        ("train/1.*", "no image"),
        ("nowhere/**/1.png", "no image"),
    ],
)
def test_locate_refuses(path, said, tmp_path):
    put(tmp_path, "train/a/1.png", "train/a/1.jpg", "train/b/1.png")
    with pytest.raises(UserError, match=said):
        locate(tmp_path, ["i"], [path])


@given(st.text("ab.[]()*/_ {}1", min_size=1, max_size=8).filter(lambda i: not i.startswith("/") and "{" not in i))
def test_regex_gives_the_id_back(i):
    for pattern in ("train/{id}.png", "{id}", "t/{id}_s1(2).jpg"):
        assert re.fullmatch(regex(pattern), pattern.replace("{id}", i))["id"] == i
    assert re.fullmatch(regex("train/{id}.*"), f"train/{i}.jpeg")["id"] == i


def test_class_folders(tmp_path):
    put(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/dog/notes.txt", "train/dog/2.jpg")
    assert class_folders(tmp_path, "train/*/*", "train/{id}.*") == (["cat/1", "dog/1", "dog/2"], ["cat", "dog", "dog"])
    with pytest.raises(UserError, match=r"train/dog/2.jpg fits .* but not images.pattern"):
        class_folders(tmp_path, "train/*/*", "train/{id}.png")
    with pytest.raises(UserError, match="no image fits train = 'learn/\\*/\\*'"):
        class_folders(tmp_path, "learn/*/*", "learn/{id}")


CELLS = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\0\ufeff", exclude_categories=["Cs"]), min_size=1, max_size=6
)


@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    st.sampled_from(",;\t"),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_quoted_cells_come_back_in_every_dialect(tmp_path_factory, rows, sign, bom, end):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    quoted = [tuple(cell.replace('"', '""') for cell in row) for row in rows]
    table(path, ("id", "label"), quoted, sign=sign, bom=bom, end=end, quote=True)
    frame = read_csv(path)
    assert list(frame.columns) == ["id", "label"]
    assert list(frame.itertuples(index=False, name=None)) == rows


@pytest.mark.parametrize(
    "text, sign",
    [
        ("id\n1\n", ","),
        ("", ","),
        ("id;label\n1;a,b\n", ";"),
        ("id,label\n1,a;b\n", ","),
        ("id\tlabel, or none\n1\ta, b, c\n", "\t"),
        ("id,cat;dog,bird\n1,0.5,0.5\n", ","),
        ("id;cat,dog;bird\n1;0,5;0,5\n2;0;1\n", ";"),
        ('"id,x";"label"\n1;2\n', ";"),
    ],
)
def test_delimiter(text, sign, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    assert delimiter(tmp_path / "t.csv") == sign


@pytest.mark.parametrize(
    "text, said",
    [
        ("a,b;c\n1,2;3\n", "commas and semicolons divide header and rows alike"),
        ("a,b;c\n1,2;3,4;5\n", "no delimiter divide"),
        ("id,label\n1,a,\n2,b,\n", "rows have more cells than the header"),
        ("id;label\n1;a;x\n", "rows have more cells than the header"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text, said, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        read_csv(tmp_path / "t.csv")


def test_a_cell_longer_than_the_sniffer_reads(tmp_path):
    pd.DataFrame({"id": ["a", "b"], "rle": ["1 2 " * 60000, "1 1"]}).to_csv(tmp_path / "t.csv", index=False, sep=";")
    assert read_csv(tmp_path / "t.csv")["rle"].str.len().tolist() == [240000, 3]


def test_images_of_the_fixture_are_images(tmp_path):
    picture(tmp_path / "a.png", channels=4)
    assert list(walk(tmp_path)) == ["a.png"]
