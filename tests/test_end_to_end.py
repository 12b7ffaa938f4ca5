"""Each task from folder to submission through the real Make targets."""

import json

import numpy as np
import pandas as pd
import pytest
from house import make_competition

ENOUGH = {"binary": 0.8, "multiclass": 0.5, "multilabel": 0.6, "ordinal": 0.4, "regression": -1.6}


CHAIN = {
    "pseudo": 'stage = "pseudo"\nrun = "blend"\nquota = 0.9\n',
    "student": 'base = "a"\npseudo = "pseudo"\n',
    "all": 'stage = "ensemble"\nmembers = ["a", "student"]\n',
    "tags": 'stage = "tag"\nrun = "all"\n',
    "tagged": 'base = "a"\ntags = "tags"\ndifficulty.suspect = "downweight"\n',
    "final": 'stage = "lb"\nrun = "all"\n',
}


@pytest.mark.parametrize("task", ENOUGH)
def test_folder_to_submission(task, make, house):
    data = make_competition(house, task)
    for name, text in CHAIN.items():
        (house / f"configs/toy/{name}.toml").write_text(text)
    make("submit", "COMP=toy", "NAME=blend")
    told = make("submit", "COMP=toy", "NAME=final").stderr
    assert "expected rmse" in told if task == "regression" else "expected precision" in told
    assert "private gain over its teacher" in told
    assert "90 %" in told
    assert "audited" in told
    make("train", "COMP=toy", "NAME=tagged")
    audit = make("audit", "COMP=toy", "NAME=final").stdout
    assert "pseudo toy/pseudo" in audit
    assert "OK" in audit
    assert make("status").stdout.count("done") == 9
    sample, sent = (
        pd.read_csv(p, dtype={"id": str}) for p in (data / "sample_submission.csv", "submissions/toy/final.csv")
    )
    assert list(sent.columns) == list(sample.columns)
    assert (sent["id"] == sample["id"]).all()
    ledger = pd.read_csv("submissions/ledger.csv")
    sign = -1 if task == "regression" else 1
    assert sign * ledger["private"][0] > ENOUGH[task]
    assert sign * ledger["cv"][0] > ENOUGH[task]
    levels = {p.parent.name: set(json.loads(p.read_text())["level"].values()) for p in house.glob("runs/toy/*/cv.json")}
    blind = {key: {"blind"} for key in ("a", "b", "pseudo", "student", "tags", "tagged")}
    assert levels == blind | {key: {"crossfit"} for key in ("blend", "all", "final")}
    assert np.load("runs/toy/final/oof.npy").shape[0] == 60
    again = make("submit", "COMP=toy", "NAME=final")
    assert "Nothing to be done" in again.stdout
    assert make("-q", "submit", "COMP=toy", "NAME=final").returncode == 0


def test_what_make_recomputes(make, house):
    make_competition(house, "multiclass")
    make("submit", "COMP=toy", "NAME=blend")
    before = {p: p.stat().st_mtime_ns for p in house.glob("runs/toy/*/fold*/model.safetensors")}
    blend = (house / "runs/toy/blend/oof.npy").read_bytes()

    assert make("-q", "submit", "COMP=toy", "NAME=blend").returncode == 0

    # A comment recomputes nothing.
    config = house / "configs/toy/a.toml"
    config.write_text("# a comment\n" + config.read_text())
    make("submit", "COMP=toy", "NAME=blend")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert make("-q", "submit", "COMP=toy", "NAME=blend").returncode == 0

    # New TTA predicts again and trains nothing.
    config.write_text(config.read_text() + '[predict]\ntta = "hflip"\n')
    make("submit", "COMP=toy", "NAME=blend")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert (house / "runs/toy/blend/oof.npy").read_bytes() != blend

    # One run's setting trains that run and blends again; the other run is left alone.
    (house / "configs/toy/b.toml").write_text('base = "a"\nseed = 2\nepochs = 2\n')
    make("submit", "COMP=toy", "NAME=blend")
    changed = {p.parent.parent.name for p in before if p.stat().st_mtime_ns != before[p]}
    assert changed == {"b"}
    status = make("status").stdout
    assert status.count("done") == 3


def test_two_at_once_are_the_same_as_one(make, house):
    make_competition(house, "multiclass")
    make("-j2", "submit", "COMP=toy", "NAME=blend")
    first = {p.relative_to(house): p.read_bytes() for p in house.glob("runs/toy/*/**/*.npy")}
    assert len(first) > 10
    for folder in ("runs", "cache"):
        (house / folder).rename(house / f"{folder}.old")
    make("submit", "COMP=toy", "NAME=blend")
    for path, content in first.items():
        assert (house / path).read_bytes() == content, path


def test_changed_data_is_noticed(make, house):
    data = make_competition(house, "multiclass")
    make("train", "COMP=toy", "NAME=b")
    before = (house / "runs/toy/b/oof.npy").read_bytes()
    data.rename(house / "elsewhere")
    data.symlink_to(house / "elsewhere")
    make("train", "COMP=toy", "NAME=b")
    assert (house / "runs/toy/b/oof.npy").read_bytes() == before
    train = house / "elsewhere/train.csv"
    train.write_text("\n".join(train.read_text().splitlines()[:-1]) + "\n")
    done = make("train", "COMP=toy", "NAME=b", check=False)
    assert "written under another fold map" in done.stderr


def test_vary_then_train(make, house):
    make_competition(house, "multiclass")
    make("vary", "COMP=toy", "FROM=a", "NAME=lr3", "SET=optim.lr=3e-3 epochs=1")
    assert (house / "configs/toy/lr3.toml").read_text().splitlines()[1:] == [
        'base = "a"',
        "optim.lr = 3e-3",
        "epochs = 1",
    ]
    make("train", "COMP=toy", "NAME=lr3")
    assert json.loads((house / "runs/toy/lr3/cv.json").read_text())["config"]["optim"]["lr"] == 3e-3


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["train"], "needs COMP="),
        (["train", "COMP=toy"], "needs NAME="),
        (["train", "COMP=toy", "NAME=aa"], "no config configs/toy/aa.toml"),
        (["submit", "COMP=tow", "NAME=a"], "no competition"),
    ],
)
def test_wrong_arguments_are_one_line(make, house, arguments, said):
    make_competition(house, "binary")
    done = make(*arguments, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (house / "runs").exists()


def test_cycle_is_refused(make, house):
    make_competition(house, "binary")
    (house / "configs/toy/x.toml").write_text('stage = "ensemble"\nmembers = ["y"]\n')
    (house / "configs/toy/y.toml").write_text('stage = "ensemble"\nmembers = ["x"]\n')
    done = make("submit", "COMP=toy", "NAME=x", check=False)
    assert done.returncode == 2
    assert "cycle: toy/x -> toy/y -> toy/x" in done.stderr


def test_help_lists_every_stage(make, house):
    listed = make("help").stdout
    for target in (
        "data",
        "folds",
        "vary",
        "train",
        "ensemble",
        "pseudo",
        "tag",
        "lb",
        "audit",
        "submit",
        "ledger",
        "status",
        "demo",
        "test",
        "lint",
    ):
        assert f"make {target} " in listed
