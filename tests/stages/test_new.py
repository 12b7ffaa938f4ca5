"""make new: what it writes, and whatever a user can get wrong."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from folders import IDS, competition, picture, table
from house import ROOT, stage

from pipeline.store.errors import UserError

AB = ["a", "b", "c"] * 20
WRITTEN = ["ablate.toml", "baseline.toml", "blend.toml", "competition.toml", "second.toml"]


@pytest.fixture
def new(house, monkeypatch):
    """`new(data, name)` runs the stage in an empty house."""

    def run(data, name="toy", weights=""):
        monkeypatch.setenv("DATA", str(data))
        monkeypatch.setenv("WEIGHTS", weights)
        stage("new", name)

    monkeypatch.delenv("DATA", raising=False)
    return run


def everything(house):
    return sorted(str(p.relative_to(house)) for p in house.rglob("*") if "raw" not in p.parts)


def test_writes_links_and_says(house, new, capsys):
    root = competition(house / "raw", AB)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    new(root)
    assert sorted(p.name for p in (house / "configs/toy").iterdir()) == WRITTEN
    assert (house / "data/toy").is_symlink()
    assert os.readlink(house / "data/toy") == str(root)
    said = capsys.readouterr().out
    assert 'task = "multiclass"' in said
    assert "(uncertain: check this)" in said
    assert "make submit COMP=toy NAME=blend" in said
    for path in (house / "configs/toy").iterdir():
        assert path.read_text().startswith("# ")
    assert "# column 'label' has 3 names of classes" in (house / "configs/toy/competition.toml").read_text()
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    stage("data", "toy")
    stage("folds", "toy")
    assert len(pd.read_csv(house / "folds/toy.csv")) == 90


def test_a_link_that_is_there_is_fine_another_is_not(house, new):
    root = competition(house / "raw", AB)
    (house / "data").mkdir()
    (house / "data/toy").symlink_to(root)
    new(root)
    (house / "data/other").mkdir()
    with pytest.raises(UserError, match="data/other exists already and is not"):
        new(root, "other")
    assert not (house / "configs/other").exists()


def test_data_that_lies_in_its_place_already(house, new):
    competition(house / "data/toy", AB)
    new("data/toy")
    assert not (house / "data/toy").is_symlink()
    assert sorted(p.name for p in (house / "configs/toy").iterdir()) == WRITTEN


@pytest.mark.parametrize("name", [*WRITTEN, "notes.txt"])
def test_nothing_is_overwritten(name, house, new):
    root = competition(house / "raw", AB)
    (house / "configs/toy").mkdir(parents=True)
    (house / "configs/toy" / name).write_text("mine")
    with pytest.raises(UserError, match=f"configs/toy/{name} exists already, nothing is overwritten"):
        new(root)
    assert everything(house) == ["configs", "configs/toy", f"configs/toy/{name}"]
    assert (house / "configs/toy" / name).read_text() == "mine"


def test_all_or_nothing(house, new, monkeypatch):
    root = competition(house / "raw", AB)

    def fail(self, target):
        raise OSError("no")

    monkeypatch.setattr("pathlib.Path.rename", fail)
    with pytest.raises(OSError, match="no"):
        new(root)
    assert everything(house) == ["configs", "data"]


def test_one_folder_inside_is_entered_and_said(house, new, capsys):
    competition(house / "raw/inner", AB)
    new(house / "raw")
    assert os.readlink(house / "data/toy") == str(house / "raw/inner")
    assert "holds nothing but the folder inner" in capsys.readouterr().out
    text = (house / "configs/toy/competition.toml").read_text()
    assert "holds nothing but the folder inner" in text.replace("\n# ", " ")  # long paths are wrapped


def test_weights(house, new):
    root = competition(house / "raw", AB)
    new(root, weights="pretrained")
    assert 'weights = "pretrained"' in (house / "configs/toy/baseline.toml").read_text()
    with pytest.raises(UserError, match="WEIGHTS='pretraind'; did you mean 'pretrained'"):
        new(root, "other", "pretraind")


def spoil(change):
    def build(house):
        root = competition(house / "raw", AB)
        change(root)
        return root

    return build


def rename_images(root):
    for path in [*root.rglob("*.png")]:
        path.rename(path.with_name("x" + path.name))


def edit(name, change):
    def spoil_table(root):
        change(pd.read_csv(root / name, dtype=str)).to_csv(root / name, index=False)

    return spoil_table


def file_of(name, content=b"x"):
    def build(house):
        (house / "raw").mkdir()
        (house / "raw" / name).write_bytes(content)
        return house / "raw" / name

    return build


WRONG = {
    "not there": (lambda house: house / "rawww", "rawww does not exist"),
    "an archive": (file_of("c.zip"), "c.zip is an archive: unpack it, and give the folder"),
    "a file": (file_of("train.csv"), "train.csv is a file: give the folder"),
    "empty": (lambda house: (house / "raw").mkdir() or house / "raw", "raw is empty"),
    "hidden only": (lambda house: file_of(".DS_Store")(house).parent, "raw is empty"),
    "packed inside": (lambda house: file_of("train.zip")(house).parent, "holds no images: unpack train.zip there first"),
    "no images": (lambda house: file_of("train.csv", b"id,y\n1,2\n")(house).parent, "holds no images (sought: bmp"),
    "no train table": (
        spoil(lambda root: (root / "train.csv").rename(root / "images.csv")),
        "has no train.csv (ids and targets; or class folders train/<class>/...); found images.csv (id, label; 60 rows)",
    ),
    "no sample": (
        spoil(lambda root: (root / "sample_submission.csv").unlink()),
        "has no sample_submission.csv (its header, and one row for each test image); found train.csv",
    ),
    "empty sample": (
        spoil(lambda root: (root / "sample_submission.csv").write_text("id,label\n")),
        "sample_submission.csv has no rows: there is nothing to predict",
    ),
    "empty train": (spoil(lambda root: (root / "train.csv").write_text("id,label\n")), "train.csv has no rows"),
    "ids that match nothing": (spoil(rename_images), "no column holds names of images: 'id' has for example"),
    "one image missing": (spoil(lambda root: (root / f"train/{IDS[5]}.png").unlink()), f"id '{IDS[5]}' has no image (1 of 60"),
    "one test image missing": (spoil(lambda root: (root / f"test/{IDS[65]}.png").unlink()), f"id '{IDS[65]}' has no image (1 of 30"),
    "several rows an image": (
        spoil(edit("train.csv", lambda f: pd.concat([f, f]))),
        "column 'id' names the images,",
    ),
    "id of another name in the sample": (
        spoil(edit("sample_submission.csv", lambda f: f.rename(columns={"id": "image"}))),
        "column 'id' names the images, but the sample submission has only 'image', 'label'",
    ),
    "sample asks for what is not there": (
        spoil(edit("sample_submission.csv", lambda f: f.assign(v=0, w=0))),
        "the sample submission asks for 'label', 'v', 'w'",
    ),
    "a target without value": (
        spoil(edit("train.csv", lambda f: f.assign(label=np.where(np.arange(60) == 7, "", f["label"])))),
        f"id '{IDS[7]}' has no value in column 'label'",
    ),
    "long rows": (
        spoil(lambda root: (root / "train.csv").write_text((root / "train.csv").read_text().replace("\n", ",\n").replace(",\n", "\n", 1))),
        "rows have more cells than the header",
    ),
}  # fmt: skip
WRONG["masks"] = (
    spoil(
        lambda root: [
            edit(name, lambda f: f.rename(columns={"label": "rle_mask"}).assign(rle_mask="1 3 900 2"))(root)
            for name in ("train.csv", "sample_submission.csv")
        ]
    ),
    "has RLE that does not fit: run '900 2' runs past the end of 16 x 16",
)


@pytest.mark.parametrize("case", WRONG)
def test_what_a_user_gets_wrong(case, house, new):
    build, said = WRONG[case]
    with pytest.raises(UserError) as caught:
        new(build(house))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(house) == []


@pytest.mark.parametrize("name", ["a/b", "a b", "../x", ".hidden", "ü", "a$b", ""])
def test_odd_names(name, house, new):
    with pytest.raises(UserError, match="COMP"):
        new(house, name)
    assert everything(house) == []


def test_class_folders_to_folds(house, new):
    for n in range(30):
        picture(house / "raw/train" / ("cat", "dog", "owl")[n % 3] / f"{n % 5 + n // 15 * 5}.jpg")
    for n in range(6):
        picture(house / f"raw/test/{n}.jpg")
    table(house / "raw/sample_submission.csv", ("id", "label"), [(n, "cat") for n in range(6)])
    new(house / "raw")
    stage("data", "toy")
    stage("folds", "toy")
    split = pd.read_csv(house / "folds/toy.csv", dtype=str)
    assert split["id"].tolist()[:2] == ["cat/0", "cat/1"]
    assert (split["fold"] != "-1").sum() == len(list((house / "raw/train").rglob("*.jpg")))


def test_to_a_submission(house, new):
    root = competition(house / "raw", ["u", "v", "u v", ""] * 15, sign=";", blank="u", ending=".png")
    new(root)
    for name, base in (("one", "baseline"), ("two", "second")):
        (house / f"configs/toy/{name}.toml").write_text(f'base = "{base}"\nepochs = 1\nmodel.options.widths = [8, 8]\n')
    blend = house / "configs/toy/blend.toml"
    blend.write_text(blend.read_text().replace('"baseline", "second"', '"one", "two"'))
    for name, run in (
        ("data", "toy"),
        ("folds", "toy"),
        ("train", "toy/one"),
        ("train", "toy/two"),
        ("ensemble", "toy/blend"),
    ):
        stage(name, run)
    stage("submit", "toy/blend")
    sent = pd.read_csv("submissions/toy/blend.csv", dtype=str, keep_default_na=False)
    assert sent["id"].tolist() == [i + ".png" for i in IDS[60:90]]
    assert set(sent["label"]) <= {"", "u", "v", "u v"}


def test_through_make(house, make):
    root = competition(house / "raw", AB)
    for arguments, said in (
        (["new"], "make new needs COMP="),
        (["new", "COMP=toy"], "make new needs DATA=<folder>"),
        (["new", "COMP=toy", "DATA=nowhere"], "nowhere does not exist"),
        (["new", "COMP=a b", "DATA=raw"], "COMP='a b'"),
    ):
        done = make(*arguments, check=False)
        assert done.returncode == 2
        assert said in done.stderr
        assert len([line for line in done.stderr.splitlines() if not line.startswith("make")]) == 1
    make("new", "COMP=toy", f"DATA={root}")
    make("folds", "COMP=toy")
    assert (house / "folds/toy.csv").exists()
    done = make("new", "COMP=toy", f"DATA={root}", check=False)
    assert "exists already, nothing is overwritten" in done.stderr


def test_a_class_folder_that_grows_is_split_again_by_make(house, make):
    for n in range(20):
        picture(house / "raw/train" / ("cat", "dog")[n % 2] / f"{n}.png")
    picture(house / "raw/test/0.png")
    table(house / "raw/sample_submission.csv", ("id", "label"), [("0", "cat")])
    make("new", "COMP=toy", "DATA=raw")
    make("folds", "COMP=toy")
    picture(house / "raw/train/cat/new.png")
    done = make("folds", "COMP=toy", check=False)
    assert "has no fold for id 'cat/new'" in done.stderr


def test_an_error_answers_at_once_without_pandas(house):
    code = (
        "import sys\nsys.argv = ['new', 'toy']\nimport pipeline.stages.new as new, argparse\n"
        "try:\n    new.run(argparse.Namespace(competition='toy'))\nexcept Exception as e:\n    print(type(e).__name__)\n"
        "assert not {'pandas', 'cv2', 'sklearn', 'torch'} & set(sys.modules)"
    )
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=house, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "UserError\n"
