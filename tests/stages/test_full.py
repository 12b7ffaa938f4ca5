"""Models of all rows: for the test set only, with an inherited score; and models of a run side by side."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from house import ROOT, make_competition, prepare, stage, write

from pipeline.audit.refit import refit
from pipeline.audit.report import audit
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import digest_file, read_json, write_json
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table


def table():
    files = CompetitionFiles("toy")
    return read_table(files, read_table_facts(files))


@pytest.mark.parametrize("task", ["ordinal"])
def test_full_data_refit_to_submission(task, make, house):
    make_competition(house, task, extra="holdout = 0.2\n")
    write("full", 'stage = "full"\nrun = "blend"\nseeds = 2\n')
    said = make("submit", "COMP=toy", "NAME=full").stderr
    assert "is inherited: nothing validates this fit" in said
    assert "deployed" in make("audit", "COMP=toy", "NAME=full").stdout
    files, here = RunFiles("toy/full"), table()
    receipt, parent = read_json(files.receipt), read_json(RunFiles("toy/blend").receipt)
    assert receipt["metrics"]["validated"] is False
    assert receipt["metrics"]["score"] == parent["metrics"]["score"]
    models = sorted(files.folder.glob("all-*/rows.npy"))
    assert [path.parent.name for path in models] == ["all-a-0", "all-a-1", "all-b-0", "all-b-1"]
    for path in models:
        assert set(np.load(path)) == set(here.scored)  # every labelled row but those of the holdout
    seeds = [np.load(path.with_name("test.npy")) for path in models[:2]]
    assert not np.array_equal(*seeds)
    weights = parent["weights"]
    for seed in range(2):
        mixed = sum(weights[f"toy/{n}"] * np.load(files.folder / f"all-{n}-{seed}/test.npy") for n in "ab")
        np.testing.assert_allclose(np.load(files.fold(seed).test), mixed, atol=1e-6)
    np.testing.assert_allclose(
        np.load(files.test), np.mean([np.load(files.fold(s).test) for s in range(2)], 0), atol=1e-6
    )
    assert not files.oof.exists()
    assert pd.read_csv("submissions/toy/full.csv").shape == (24, 2)
    ledger = pd.read_csv("submissions/ledger.csv")
    assert ledger["cv"][0] == pytest.approx(parent["metrics"]["score"])
    assert ledger["private"][0] > 0.3
    assert make("-q", "submit", "COMP=toy", "NAME=full").returncode == 0


@pytest.fixture
def full(house):
    make_competition(house, "multiclass")
    prepare()
    stage("train", "toy/a")
    write("full", 'stage = "full"\nrun = "a"\nseeds = 1\n')
    stage("full", "toy/full")
    return house


def test_nothing_builds_on_models_of_all_rows(full):
    write("all", 'stage = "ensemble"\nmembers = ["a", "full"]\n')
    write("final", 'stage = "lb"\nrun = "full"\n')
    write("p", 'stage = "pseudo"\nrun = "full"\n')
    for name, run in (("ensemble", "all"), ("lb", "final"), ("pseudo", "p")):
        with pytest.raises(UserError, match="is of stage full"):
            stage(name, f"toy/{run}")


@pytest.mark.parametrize("spoil", ["score", "test", "rows"])
def test_the_audit_of_models_of_all_rows(full, spoil):
    files = RunFiles("toy/full")
    assert not audit("toy/full", refit).findings
    model = files.whole("a-0")
    if spoil == "score":
        known = read_json(files.receipt)
        write_json(files.receipt, known | {"metrics": known["metrics"] | {"validated": True}})
    if spoil == "test":
        np.save(files.fold(0).test, np.load(files.fold(0).test) * 0.9)
    if spoil == "rows":
        np.save(model.rows, np.append(np.load(model.rows), table().test[0]).astype(np.int32))
    for path in (model.receipt, files.receipt):
        known = read_json(path)
        write_json(path, known | {"outputs": {name: digest_file(Path(name)) for name in known["outputs"]}})
    said = {"score": "claims a score", "test": "are not those of its models", "rows": "that are not labelled"}[spoil]
    assert any(said in str(finding) for finding in audit("toy/full", refit).findings)


@pytest.mark.parametrize(
    "config, said",
    [
        ('base = "a"\nselect = "best"\n', "on all rows nothing is left to choose by"),
        ('base = "a"\ninit = "a"\n', "learns from init"),
        ('stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "logistic"\n', "is a stacker"),
    ],
)
def test_what_cannot_be_refitted_is_one_line(full, config, said):
    stage("train", "toy/b")
    write("n", config)
    stage("ensemble" if "ensemble" in config else "train", "toy/n")
    write("f", 'stage = "full"\nrun = "n"\nseeds = 1\n')
    with pytest.raises(UserError, match=said) as caught:
        stage("full", "toy/f")
    assert not list(Path("runs/toy/f").glob("all-*"))  # told before anything is trained
    assert "\n" not in str(caught.value)


def outputs(house):
    kept = [*house.glob("runs/toy/a/**/*.npy"), *house.glob("runs/toy/a/**/*.safetensors")]
    return {str(p.relative_to(house)): p.read_bytes() for p in kept}


def test_side_by_side_is_the_same_as_one_after_another(make, house):
    make_competition(house, "multiclass")
    make("train", "COMP=toy", "NAME=a", PODIUM_THREADS="1")
    one = outputs(house)
    os.rename("runs", "one")
    make("train", "COMP=toy", "NAME=a", "LAUNCHER=local", "JOBS=2", PODIUM_THREADS="1")
    assert outputs(house) == one
    log = Path("runs/toy/a/run.log").read_text()
    assert all(f"fold {k}: trained on" in log for k in range(3))


def test_killed_side_by_side_leaves_no_orphans(house):
    make_competition(house, "multiclass")
    config = Path("configs/toy/a.toml")
    config.write_text(config.read_text().replace("epochs = 3", "epochs = 4000"))
    prepare()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LAUNCHER": "local", "JOBS": "2"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.stages.train", "toy/a"], env=env, stderr=subprocess.DEVNULL
    )
    logs = [Path(f"runs/toy/a/fold{k}/log.jsonl") for k in range(2)]
    for _ in range(6000):
        if all(log.exists() and log.read_text().count("valid_loss") > 2 for log in logs):
            break
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    sizes = [log.stat().st_size for log in logs]
    time.sleep(0.5)
    assert [log.stat().st_size for log in logs] == sizes


def test_a_mistake_of_one_is_the_end_of_all(make, house):
    make_competition(house, "multiclass")
    config = Path("configs/toy/a.toml")
    config.write_text(config.read_text().replace("lr = 1e-2", "lr = 1e30"))
    done = make("train", "COMP=toy", "NAME=a", "LAUNCHER=local", "JOBS=2", check=False)
    assert done.returncode == 2
    assert "the loss is not finite" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("runs/toy/a/cv.json").exists()


@pytest.mark.parametrize(
    "env, said", [({"LAUNCHER": "lokal"}, "did you mean 'local'"), ({"JOBS": "2"}, "needs LAUNCHER=local")]
)
def test_wrong_launchers_are_one_line(house, monkeypatch, env, said):
    make_competition(house, "multiclass")
    prepare()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        stage("train", "toy/a")


def test_receipts_tell_the_threads(house, monkeypatch):
    make_competition(house, "multiclass")
    prepare()
    monkeypatch.setenv("LAUNCHER", "local")
    monkeypatch.setenv("JOBS", "1")
    stage("train", "toy/a")
    assert json.loads(Path("runs/toy/a/cv.json").read_text())["machine"]["threads"] == 1
