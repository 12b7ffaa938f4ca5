"""Targets, groups and ids as competitions write them."""

import numpy as np
import pandas as pd
import pytest
from house import make_competition, prepare

from pipeline.competitions.table_of_images import read_groups
from pipeline.competitions.targets import encode
from pipeline.store.config import Competition, Group
from pipeline.store.errors import UserError


def encoded(tmp_path, task, frame, target="y", **settings):
    metric = {"settings": settings}["settings"]
    config = Competition.model_validate({"task": task, "metric": "m", "id": "id", "target": target, **metric})
    frame = pd.DataFrame(frame, dtype=str)
    ids = np.array([f"r{i}" for i in range(len(frame))])
    y, classes = encode(config, frame, ids, tmp_path / "train.csv")
    return y.tolist(), classes


@pytest.mark.parametrize(
    "task, frame, settings, want, classes",
    [
        ("binary", {"y": ["yes", "no", "yes"]}, {}, [[1], [0], [1]], ["no", "yes"]),
        ("binary", {"y": ["yes", "no"]}, {"classes": ["yes", "no"]}, [[0], [1]], ["yes", "no"]),
        ("multiclass", {"y": ["10", "9", "10"]}, {}, [[1], [0], [1]], ["9", "10"]),
        ("multiclass", {"a": ["1", "0"], "b": ["0", "1"]}, {"target": ["a", "b"]}, [[0], [1]], ["a", "b"]),
        ("multilabel", {"a": ["1", "0"], "b": ["1", "0"]}, {"target": ["a", "b"]}, [[1, 1], [0, 0]], ["a", "b"]),
        ("multilabel", {"y": ["b|a", "", " a | "]}, {"separator": "|"}, [[1, 1], [0, 0], [1, 0]], ["a", "b"]),
        ("ordinal", {"y": ["2", "0", "1"]}, {}, [[2], [0], [1]], ["0", "1", "2"]),
        ("regression", {"y": ["1.5", "-2"]}, {}, [[1.5], [-2]], ["y"]),
        ("regression", {"u": ["1", "2"], "v": ["3", "4"]}, {"target": ["u", "v"]}, [[1, 3], [2, 4]], ["u", "v"]),
    ],
)
def test_encode(task, frame, settings, want, classes, tmp_path):
    settings = dict(settings)
    assert encoded(tmp_path, task, frame, settings.pop("target", "y"), **settings) == (want, classes)


@pytest.mark.parametrize(
    "task, frame, settings, said",
    [
        ("binary", {"y": ["a", "b", "c"]}, {}, "a binary target has 2 values"),
        ("multiclass", {"a": ["1", "1"], "b": ["0", "1"]}, {"target": ["a", "b"]}, "'r1' must have exactly one 1"),
        ("multilabel", {"a": ["1", "2"], "b": ["0", "1"]}, {"target": ["a", "b"]}, "'r1' must have 0 or 1"),
        ("multilabel", {"y": ["a", "c"]}, {"separator": " ", "classes": ["a", "b"]}, "'r1' has the label 'c'"),
        ("multilabel", {"y": ["", ""]}, {"separator": " "}, "has no label at all"),
        ("ordinal", {"y": ["low", "high"]}, {}, "grades must be numbers"),
        ("regression", {"y": ["1", "x"]}, {}, "'r1' has 'x' in column 'y', not a number"),
        ("regression", {"y": ["1", "inf"]}, {}, "not a number"),
        ("regression", {"y": ["1", "NaN"]}, {}, "'r1' has no value"),
    ],
)
def test_encode_refuses(task, frame, settings, said, tmp_path):
    settings = dict(settings)
    with pytest.raises(UserError, match=said):
        encoded(tmp_path, task, frame, settings.pop("target", "y"), **settings)


def test_groups_from_a_second_table(tmp_path):
    pd.DataFrame({"image": ["r0", "r1", "t0"], "who": ["p", "q", "p"]}).to_csv(tmp_path / "g.csv", index=False)
    ids, test = np.array(["r0", "r1", "t0", "t1"]), np.array([False, False, True, True])
    group = Group(table="g.csv", id="image", column="who")
    found = read_groups(group, "id", pd.DataFrame(), ids, test, tmp_path, tmp_path)
    assert found.tolist() == ["p", "q", "p", ""]


def folds_of(house):
    rows = pd.read_csv(house / "folds/toy.csv", dtype={"id": str})
    return dict(zip(rows["id"], rows["fold"], strict=True))


def test_predefined_folds(house):
    data = make_competition(house, "binary", extra='column = "part"\n')
    frame = pd.read_csv(data / "train.csv", dtype=str)
    frame.assign(part=np.arange(60) // 20).to_csv(data / "train.csv", index=False)
    prepare()
    assert [folds_of(house)[f"i{j:03d}"] for j in (0, 19, 20, 59, 60)] == [0, 0, 1, 2, -1]
    frame.assign(part=np.arange(60) % 2 * 2).to_csv(data / "train.csv", index=False)
    with pytest.raises(UserError, match="must hold folds 0, 1, ... without a gap"):
        prepare()


def test_predefined_folds_that_divide_a_group_are_refused(house):
    data = make_competition(house, "binary", extra='column = "part"\n[group]\npattern = "^i0"\n')
    frame = pd.read_csv(data / "train.csv", dtype=str)
    frame.assign(part=np.arange(60) % 2).to_csv(data / "train.csv", index=False)
    with pytest.raises(UserError, match=r"1 group\(s\) in two folds, for example 'i0'"):
        prepare()


def test_committed_split_is_used_again(house):
    make_competition(house, "multiclass")
    prepare()
    path = house / "folds/toy.csv"
    lines = path.read_text().splitlines()
    first, second = (next(i for i, line in enumerate(lines) if line.endswith(f",{k}")) for k in (0, 1))
    lines[first], lines[second] = lines[first][:-1] + "1", lines[second][:-1] + "0"
    path.write_text("\n".join(lines) + "\n")
    prepare()
    assert path.read_text() == "\n".join(lines) + "\n"
    assert "edited by hand" in (house / "folds/toy.json").read_text()
    (house / "cache").rename(house / "gone")
    (house / "folds/toy.json").unlink()
    prepare()
    assert "given by hand" in (house / "folds/toy.json").read_text()
    assert path.read_text() == "\n".join(lines) + "\n"


def test_split_by_hand_must_hold_every_row(house):
    make_competition(house, "multiclass")
    (house / "folds").mkdir()
    given = "id,fold\n" + "".join(f"i{j:03d},{j % 3}\n" for j in range(59))
    (house / "folds/toy.csv").write_text(given)
    with pytest.raises(UserError, match=r"has no fold for id 'i059' \(1 such rows\): add them, or delete the file"):
        prepare()
    assert (house / "folds/toy.csv").read_text() == given


def test_new_rows_never_split_the_old_ones_again(house):
    import shutil

    data = make_competition(house, "multiclass")
    prepare()
    before = (house / "folds/toy.csv").read_text()
    train = data / "train.csv"
    train.write_text(train.read_text() + "new,ant\n")
    shutil.copy(data / "train/i000.png", data / "train/new.png")
    with pytest.raises(UserError, match="has no fold for id 'new'"):
        prepare()
    assert (house / "folds/toy.csv").read_text() == before
    train.write_text("\n".join(train.read_text().splitlines()[:-3]) + "\n")
    prepare()
    assert folds_of(house)["i000"] == int(before.splitlines()[1].split(",")[1])


def test_other_settings_split_again(house):
    make_competition(house, "multiclass")
    prepare()
    before = folds_of(house)
    config = house / "configs/toy/competition.toml"
    config.write_text(config.read_text() + "seed = 1\n")
    prepare()
    assert folds_of(house) != before


def test_warnings_tell_of_copies_and_shared_ids(house, caplog):
    data = make_competition(house, "binary")
    (data / "test/i061.png").write_bytes((data / "train/i004.png").read_bytes())
    prepare()
    text = (house / "folds/toy.json").read_text()
    assert "1 train row(s) have an identical image in test, for example 'i004'" in text
