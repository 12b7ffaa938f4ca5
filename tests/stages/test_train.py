"""A run survives a kill with the same bytes; select = "best" never looks at its own fold."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from house import ROOT, make_competition, prepare, stage

from pipeline.store.receipts import fresh


def outputs(house):
    return {str(p.relative_to(house)): p.read_bytes() for p in house.glob("runs/toy/a/**/*.npy")}


def settings(house, **changes):
    path = house / "configs/toy/a.toml"
    text = path.read_text()
    for old, new in changes.items():
        text = text.replace(old.replace("__", " = "), new)
    path.write_text(text)


@pytest.mark.parametrize("average", ["", "[average]\nema = 0.9\n", "[average]\nswa = 0.5\n"])
def test_kill_9_in_the_middle_of_a_fold(average, house):
    make_competition(house, "multiclass")
    config = house / "configs/toy/a.toml"
    dropout = (
        config.read_text().replace("epochs = 3", "epochs = 80").replace('name = "cnn"', 'name = "cnn"\ndropout = 0.2')
    )
    config.write_text(dropout.replace('recipe = "none"', 'recipe = "light"\nmixup = 0.4') + average)
    prepare()
    stage("train", "toy/a")
    whole = outputs(house)
    log = (house / "runs/toy/a/fold1/log.jsonl").read_text()
    os.rename("runs", "whole")

    env = {**os.environ, "PYTHONPATH": str(ROOT), "PODIUM_CHECKPOINT_SECONDS": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.stages.train", "toy/a"], env=env, stderr=subprocess.DEVNULL
    )
    begun = house / "runs/toy/a/fold1/log.jsonl"
    for _ in range(60000):
        if begun.exists() and begun.read_text().count("valid_loss") >= 8:
            break
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (house / "runs/toy/a/fold1/last.pt").exists()
    assert not (house / "runs/toy/a/cv.json").exists()

    stage("train", "toy/a")
    assert outputs(house) == whole
    resumed = [json.loads(line) for line in begun.read_text().splitlines()]
    expected = [json.loads(line) for line in log.splitlines()]
    for entry in (*resumed, *expected):
        entry.pop("seconds", None)
    assert resumed == expected


def test_receipts_hold_what_an_audit_needs(house):
    make_competition(house, "multiclass")
    prepare()
    stage("train", "toy/a")
    run = json.loads((house / "runs/toy/a/cv.json").read_text())
    fold = json.loads((house / "runs/toy/a/fold2/fold.json").read_text())
    assert run["level"] == {"0": "blind", "1": "blind", "2": "blind"}
    assert fold["trained_on"]["rows"] == 40
    assert fold["fit_hash"] == run["fit_hash"] != run["predict_hash"]
    assert set(run["environment"]) >= {"torch", "commit", "python"}
    assert all(fresh(house / f"runs/toy/a/fold{k}/fold.json", run["predict_hash"]) for k in range(3))
    oof = np.load("runs/toy/a/oof.npy")
    np.testing.assert_allclose(oof.sum(1), 1, atol=1e-5)
    assert oof.dtype == np.float32


def test_select_best_uses_the_other_folds(house):
    make_competition(house, "multiclass")
    settings(house, epochs__3='epochs = 6\nselect = "best"')
    prepare()
    stage("train", "toy/a")
    folds = [house / f"runs/toy/a/fold{k}" for k in range(3)]
    curves = np.array(
        [
            [
                e["valid_accuracy"]
                for e in map(json.loads, (f / "log.jsonl").read_text().splitlines())
                if "valid_accuracy" in e
            ]
            for f in folds
        ]
    )
    for k, folder in enumerate(folds):
        others = np.delete(curves, k, 0).mean(0)
        assert json.loads((folder / "fold.json").read_text())["epoch"] == others.argmax()
        assert not list(folder.glob("epoch*.safetensors"))
    assert set(json.loads((house / "runs/toy/a/cv.json").read_text())["level"].values()) == {"crossfit"}
    models = {p: p.stat().st_mtime_ns for p in house.glob("runs/toy/a/fold*/model.safetensors")}
    settings(house, **{"[optim]": '[predict]\ntta = "hflip"\n[optim]'})
    stage("train", "toy/a")
    assert {p: p.stat().st_mtime_ns for p in models} == models


def test_a_fold_without_positives_has_no_score_of_its_own(house):
    data = make_competition(house, "binary")
    frame = pd.read_csv(data / "train.csv", dtype=str)
    frame.assign(target=np.where(np.arange(60) < 2, "yes", "no")).to_csv(data / "train.csv", index=False)
    prepare()
    assert "class 'yes' is missing from fold(s)" in (house / "folds/toy.json").read_text()
    stage("train", "toy/b")
    stage("submit", "toy/b")
    metrics = json.loads((house / "runs/toy/b/cv.json").read_text())["metrics"]
    assert metrics["per_fold"].count(None) == 1
    assert metrics["fold_sd"] is None
    stage("status")
    stage("ledger")


def test_a_lost_or_swapped_part_is_noticed(house):
    make_competition(house, "multiclass")
    prepare()
    stage("train", "toy/a")
    part = house / "runs/toy/a/fold1/test.npy"
    whole = part.read_bytes()
    for spoil in (part.unlink, lambda: np.save(part, np.zeros((24, 4), np.float32))):
        spoil()
        stage("train", "toy/a")
        assert part.read_bytes() == whole


def test_epochs_of_another_config_are_never_chosen(house, monkeypatch):
    """A is killed, B is killed, A goes on: nothing of B may be left in A's choice."""
    make_competition(house, "multiclass")
    settings(house, epochs__3='epochs = 4\nselect = "best"')
    prepare()
    stage("train", "toy/a")
    expected = outputs(house)
    (house / "runs").rename(house / "whole")
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    from pipeline.store.tracking import Tracker

    def killed_after(epochs):
        count = iter(range(epochs))

        def log(self, numbers):
            if next(count, None) is None:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Tracker, "log", log)
            with pytest.raises(KeyboardInterrupt):
                stage("train", "toy/a")

    killed_after(2)
    settings(house, **{"lr = 1e-2": "lr = 2e-2"})
    killed_after(2)
    settings(house, **{"lr = 2e-2": "lr = 1e-2"})
    stage("train", "toy/a")
    assert outputs(house) == expected


def test_the_metric_does_not_train_again(house):
    make_competition(house, "multiclass")
    prepare()
    stage("train", "toy/a")
    models = {p: p.stat().st_mtime_ns for p in house.glob("runs/toy/a/fold*/model.safetensors")}
    contract = house / "configs/toy/competition.toml"
    contract.write_text(contract.read_text().replace('"accuracy"', '"log_loss"'))
    prepare()
    stage("train", "toy/a")
    assert {p: p.stat().st_mtime_ns for p in models} == models
    assert json.loads((house / "runs/toy/a/cv.json").read_text())["metrics"]["metric"] == "log_loss"


def test_new_test_images_predict_only(house):
    data = make_competition(house, "multiclass")
    prepare()
    stage("train", "toy/a")
    models = {p: p.stat().st_mtime_ns for p in house.glob("runs/toy/a/fold*/model.safetensors")}
    sample = data / "sample_submission.csv"
    sample.write_text("\n".join(sample.read_text().splitlines()[:-4]) + "\n")
    prepare()
    stage("train", "toy/a")
    assert np.load("runs/toy/a/test.npy").shape[0] == 20
    assert {p: p.stat().st_mtime_ns for p in models} == models


def test_groups_and_identical_images_stay_together(house):
    data = make_competition(house, "multiclass", extra="[group]\npattern = '^i(..)'\n")
    (data / "train/i041.png").write_bytes((data / "train/i002.png").read_bytes())
    prepare()
    rows = dict(line.split(",")[:2] for line in (house / "folds/toy.csv").read_text().splitlines()[1:61])
    assert rows["i041"] == rows["i002"] == rows["i040"] == rows["i009"]
    how = json.loads((house / "folds/toy.json").read_text())
    assert how["method"] == "stratified-group"
    assert how["identical_images"] == 1


def test_two_stages_on_one_run_wait_for_each_other(house):
    make_competition(house, "multiclass")
    prepare()
    command = [sys.executable, "-m", "pipeline.stages.train", "toy/a"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("trained on" in text for text in said) == 1
    assert sum("run toy/a is in use by process" in text and "waiting" in text for text in said) == 1


def test_tuned_cuts_are_moved_for_the_mean_of_models(house):
    make_competition(house, "ordinal")
    settings(house, epochs__3='epochs = 3\ndecision = "optimal"')
    prepare()
    stage("train", "toy/a")
    stage("submit", "toy/a")
    receipt = json.loads((house / "submissions/toy/a.json").read_text())
    cuts = receipt["decision"]
    mean = np.load("runs/toy/a/test.npy")[:, 0]
    models = [np.load(f"runs/toy/a/fold{k}/test.npy")[:, 0] for k in range(3)]
    for one, moved in zip(cuts["one_model"], cuts["deployed"], strict=True):
        share = np.mean([(m > one).mean() for m in models])
        assert abs((mean > moved).mean() - share) <= 0.5 / len(mean) + 1e-9
