"""What a run leaves on its shelf, computed again by hand; a student's shelf is like any other."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from house import ROOT, make_competition, prepare, stage, write
from safetensors.torch import load_file
from school import job_of, labels, receipt

from pipeline.store.artifacts import RunFiles
from pipeline.store.files import digest, digest_file
from pipeline.store.receipts import fresh
from pipeline.store.table import half_of
from pipeline.store.tracking import Tracker
from pipeline.training.job import new_network
from pipeline.training.watch import Watch
from pipeline.training.which import Which

SINGLE = [Which((k,)) for k in range(3)]
PAIRS = [Which((0, 1)), Which((0, 2)), Which((1, 2))]
HALVES = [Which((k,), half) for k in range(3) for half in (0, 1)]
MODELS = [*(("a", which) for which in SINGLE), *(("b", which) for which in SINGLE + PAIRS), *(("s", w) for w in HALVES)]


def shelf(name, which):
    return which.files(RunFiles(f"toy/{name}"))


def own_rows(which):
    table = job_of("toy/a").table
    return np.isin(table.folds[table.scored], which.held_out)


@torch.no_grad()
def by_hand(name, which, flip=False):
    """Probabilities of the scored rows, then of the test rows, from one view; and their features."""
    job = job_of(f"toy/{name}")
    network = new_network(job)
    network.load_state_dict(load_file(which.files(job.files).model))
    x = np.concatenate([np.asarray(job.images(rows)[0]) for rows in (job.table.scored, job.table.test)])
    x = torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255
    features = network.eval().features(x.flip(3) if flip else x)
    return network.head(features)[:, :4].softmax(1).numpy(), features.numpy()


def near(found, wanted, atol=1e-5):
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=atol)


@pytest.mark.parametrize("name, which", MODELS)
def test_a_model_tells_what_it_trained_on(school, name, which):
    table = job_of("toy/a").table
    wanted = set(np.flatnonzero((table.folds >= 0) & ~np.isin(table.folds, which.held_out)).tolist())
    if which.half is not None:
        frame = labels()
        mine = frame[(frame["fold"] == which.held_out[0]) & (frame["half"] == which.half)]
        wanted |= set(np.flatnonzero(np.isin(table.ids, mine["id"])).tolist())
        assert len(wanted) == 40 + len(mine) > 40
    files = shelf(name, which)
    rows = np.load(files.rows)
    assert rows.dtype == np.int32
    assert len(rows) == len(wanted)
    assert set(rows.tolist()) == wanted
    facts = json.loads(files.receipt.read_text())
    assert facts["trained_on"] == {"rows": len(wanted), "ids": digest(*table.ids[sorted(wanted)])}
    assert facts["held_out"] == list(which.held_out)
    assert facts["half"] == which.half
    assert facts["level"] == "blind"
    told = str(RunFiles("toy/p").pseudo)
    parent = {"role": "pseudo", "run": "toy/p", "key": receipt("toy/p")["key"], "level": dict.fromkeys("012", "blind")}
    assert facts["parents"] == ([parent | {"files": {told: digest_file(Path(told))}}] if name == "s" else [])
    assert fresh(files.receipt, receipt(f"toy/{name}")["predict_hash"])


@pytest.mark.parametrize("name, which", MODELS)
def test_predictions_are_those_of_its_weights(school, name, which):
    files, own = shelf(name, which), own_rows(which)
    views = [by_hand(name, which)]
    if name == "b":  # its config asks for two views
        views.append(by_hand(name, which, flip=True))
    said = np.mean([view[0] for view in views], 0)
    oof, test, train = (np.load(path) for path in (files.oof, files.test, files.train))
    near(oof, said[:60][own])
    near(test, said[60:])
    near(train[~own], views[0][0][:60][~own])
    assert np.array_equal(train[own], oof)
    assert len(oof) == (40 if len(which.held_out) == 2 else 20)
    assert {array.dtype for array in (oof, test, train)} == {np.dtype(np.float32)}

    spread = np.load(files.spread)
    wanted = np.std([view[0] for view in views], 0).mean(1)
    assert spread.shape == (84,)
    assert spread.dtype == np.float32
    seen = np.r_[own, np.ones(24, bool)]
    near(spread[seen], wanted[seen])
    assert np.isnan(spread[~seen]).all()
    assert (spread[seen].max() > 1e-4) == (name == "b")

    features = np.load(files.embeddings)
    assert features.shape == (84, 16)
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, views[0][1], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("name, which", MODELS)
def test_statistics_of_the_epochs_are_of_trained_rows(school, name, which):
    epochs = np.load(shelf(name, which).epochs)
    assert epochs.shape == (60, 4 + 3)
    assert epochs.dtype == np.float32
    assert np.array_equal(np.isnan(epochs).all(1), own_rows(which))
    assert np.array_equal(np.isnan(epochs).any(1), own_rows(which))
    np.testing.assert_allclose(epochs[~own_rows(which), :4].sum(1), 1, rtol=1e-4)


@pytest.mark.parametrize("fold", range(3))
def test_every_row_is_predicted_by_the_half_that_did_not_train_on_it(school, fold):
    table, files = job_of("toy/a").table, RunFiles("toy/s").fold(fold)
    halves = [files.half(0), files.half(1)]
    for name, ids in (
        ("test", table.ids[table.test]),
        ("train", table.ids[table.scored]),
        ("oof", table.ids[table.folds == fold]),
        ("spread", table.ids[np.r_[table.scored, table.test]]),
    ):
        joined, parts = np.load(getattr(files, name)), [np.load(getattr(half, name)) for half in halves]
        assert {0, 1} == set(half_of(ids).tolist())
        for i, one in enumerate(ids):
            assert np.array_equal(joined[i], parts[1 - half_of([one])[0]][i], equal_nan=True), (name, one)
        assert len(joined) == len(ids)
    for half, shelf_of_half in enumerate(halves):
        learnt = table.ids[np.load(shelf_of_half.rows)]
        by_it = table.ids[table.test][half_of(table.ids[table.test]) == 1 - half]
        assert not set(learnt) & set(by_it)
    facts = json.loads(files.receipt.read_text())
    assert facts["halves"] == [0, 1]
    assert facts["outputs"][str(halves[1].receipt)] == digest_file(halves[1].receipt)
    near(np.load("runs/toy/s/oof.npy")[own_rows(Which((fold,)))], np.load(files.oof), 0)


def test_the_shelf_of_a_student_is_like_any_other(school):
    plain, student = receipt("toy/a"), receipt("toy/s")
    assert plain.keys() == student.keys()
    assert [path.replace("/s/", "/a/") for path in student["outputs"]] == list(plain["outputs"])
    for k in range(3):
        files = {path.name for path in (school / f"runs/toy/s/fold{k}").iterdir()}
        assert files == {"oof.npy", "test.npy", "train.npy", "spread.npy", "fold.json", "half0", "half1"}
    tests = [np.load(f"runs/toy/s/fold{k}/test.npy") for k in range(3)]
    near(np.load("runs/toy/s/test.npy"), np.mean(tests, 0))
    assert student["level"] == dict.fromkeys("012", "blind")


def files_of(name, which):
    """What a model says it learnt from, by role."""
    facts = json.loads(shelf(name, which).receipt.read_text())
    for parent in facts["parents"]:
        assert parent["files"] == {path: digest_file(Path(path)) for path in parent["files"]}
    return {parent["role"]: set(parent["files"]) for parent in facts["parents"]}


def test_models_that_are_taught_by_pairs_say_so(school):
    write("d", 'base = "a"\nteacher = "b"\nepochs = 1\ndistill.nested = "pairs"\n')
    stage("train", "toy/d")
    for which in SINGLE:
        pairs = [pair for pair in PAIRS if which.held_out[0] in pair.held_out]
        assert files_of("d", which) == {"teacher": {str(shelf("b", model).train) for model in (which, *pairs)}}


def test_a_student_is_a_member_a_teacher_and_a_start(school):
    write("all", 'stage = "ensemble"\nmembers = ["a", "s", "blend"]\n')
    write("p2", 'stage = "pseudo"\nrun = "s"\nquota = [1.0, 0.5]\nstop = false\n')
    write("s2", 'base = "s"\npseudo = "p2"\ninit = "s"\nepochs = 1\n[student]\nmode = "finetune"\n')
    write("d", 'base = "a"\nteacher = "s"\nepochs = 1\n')
    stage("ensemble", "toy/all")
    stage("pseudo", "toy/p2")
    stage("train", "toy/s2")
    stage("train", "toy/d")
    assert len(receipt("toy/p2")["rounds"]) == 2
    assert len(labels("toy/p2")) < len(labels("toy/p"))
    assert [(parent["role"], parent["run"]) for parent in receipt("toy/s2")["parents"]] == [
        ("pseudo", "toy/p2"),
        ("init", "toy/s"),
    ]
    assert [(parent["role"], parent["run"]) for parent in receipt("toy/d")["parents"]] == [("teacher", "toy/s")]
    assert receipt("toy/all")["level"] == dict.fromkeys("012", "crossfit")
    for which in HALVES:
        init = str(shelf("s", which).model)  # of the same fold and half
        assert files_of("s2", which) == {"pseudo": {str(RunFiles("toy/p2").pseudo)}, "init": {init}}
    for which in SINGLE:
        assert files_of("d", which) == {"teacher": {str(shelf("s", which).train)}}
    for name in ("s2", "d"):
        assert receipt(f"toy/{name}")["level"] == dict.fromkeys("012", "blind")
        assert np.load(f"runs/toy/{name}/test.npy").shape == (24, 4)


def arrays(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("**/*.npy")}


def models(*names):
    return {
        path: path.stat().st_mtime_ns
        for name in names
        for path in RunFiles(f"toy/{name}").folder.glob("**/*.safetensors")
    }


@pytest.mark.parametrize("after", [6, 7])
def test_a_killed_student_goes_on_to_the_same_bytes(school, monkeypatch, after):
    whole, steps = arrays(school / "runs/toy/s"), iter(range(after))
    shutil.rmtree("runs/toy/s")
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")

    def log(self, numbers):
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "log", log)
        with pytest.raises(KeyboardInterrupt):
            stage("train", "toy/s")
    done = models("s")
    assert len(done) == after // 2  # two epochs a model
    assert len(list(school.glob("runs/toy/s/**/last.pt"))) == after % 2
    stage("train", "toy/s")
    assert {path: at for path, at in models("s").items() if path in done} == done
    assert arrays(school / "runs/toy/s") == whole
    assert not list(school.glob("runs/toy/s/**/last.pt"))


def test_only_what_a_student_learns_from_trains_it_again(school):
    before = models("s")
    path = school / "configs/toy/p.toml"
    path.write_text("# these are for the student\n" + path.read_text())
    stage("pseudo", "toy/p")
    stage("train", "toy/s")
    assert models("s") == before
    path.write_text(path.read_text() + 'targets = "soft"\n')
    stage("pseudo", "toy/p")
    stage("train", "toy/s")
    after = models("s")
    assert len(after) == 6
    assert all(after[model] > before[model] for model in before)


def test_nothing_to_do_is_seen_at_once(school):
    code = (
        "import sys, argparse, importlib\n"
        "for stage, run in (('pseudo', 'p'), ('train', 's'), ('train', 'b'), ('train', 'd')):\n"
        "    importlib.import_module(f'pipeline.stages.{stage}').run(argparse.Namespace(run=f'toy/{run}'))\n"
        "heavy = {'torch', 'timm', 'albumentations', 'wandb', 'sklearn', 'scipy', 'pandas', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    write("d", 'base = "a"\nteacher = "blend"\ninit = "b"\nepochs = 1\n')
    stage("train", "toy/d")
    kept = {
        path: path.stat().st_mtime_ns
        for path in school.glob("runs/toy/*/**/*")
        if path.suffix in (".npy", ".csv", ".safetensors")
    }
    receipts = {name: RunFiles(f"toy/{name}").receipt.stat().st_mtime_ns for name in ("p", "s", "b", "d")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert all(RunFiles(f"toy/{name}").receipt.stat().st_mtime_ns > at for name, at in receipts.items())


def test_new_views_and_missing_files_do_not_train(school):
    before = models("s")
    path = school / "configs/toy/s.toml"
    path.write_text(path.read_text() + '[predict]\ntta = "hflip"\n')
    shelf("s", HALVES[3]).train.unlink()
    stage("train", "toy/s")
    assert models("s") == before
    assert shelf("s", HALVES[3]).train.exists()
    again = np.load("runs/toy/s/fold2/half1/test.npy")
    near(again, np.mean([by_hand("s", HALVES[5], flip)[0][60:] for flip in (False, True)], 0))
    ids = job_of("toy/s").table.ids[job_of("toy/s").table.test]
    first = half_of(ids) == 0
    assert np.array_equal(np.load("runs/toy/s/fold2/test.npy")[first], again[first])  # put together again


def test_pairs_are_added_without_training_the_rest(school):
    write("q", 'base = "a"\npairs = true\n')
    shutil.copytree("runs/toy/a", "runs/toy/q")  # a run of the same weights
    before, singles = models("q"), arrays(school / "runs/toy/q")
    stage("train", "toy/q")
    assert {path: at for path, at in models("q").items() if path in before} == before
    after = arrays(school / "runs/toy/q")
    assert {name: after[name] for name in singles} == singles
    assert {name.split("/")[0] for name in after.keys() - singles.keys()} == {"pair0-1", "pair0-2", "pair1-2"}


def test_hard_rows_get_more_views(school):
    write("h", 'base = "a"\n[predict]\nhard_tta = "hflip"\nhard_share = 0.4\n')
    shutil.copytree("runs/toy/a", "runs/toy/h")  # a run of the same weights
    stage("train", "toy/h")
    for which in SINGLE:
        once, again = (by_hand("a", which, flip)[0] for flip in (False, True))
        for name, rows in (("oof", np.flatnonzero(own_rows(which))), ("test", np.arange(60, 84))):
            hard = np.argsort(once[rows].max(1))[: round(0.4 * len(rows))]
            wanted = once[rows].copy()
            wanted[hard] = (once[rows][hard] + again[rows][hard]) / 2
            near(np.load(getattr(shelf("h", which), name)), wanted)
        spread = np.load(shelf("h", which).spread)
        assert (spread[60:] > 0).sum() == round(0.4 * 24)


def test_indicators_give_a_threshold(school, monkeypatch):
    watches = []
    plain = Watch.table
    monkeypatch.setattr(Watch, "table", lambda watch: watches.append(watch) or plain(watch))
    write("i", 'base = "a"\nindicators = true\nepochs = 1\n')
    stage("train", "toy/i")
    for which, watch in zip(SINGLE, watches, strict=True):
        files, table = shelf("i", which), plain(watch)
        epochs = np.load(files.epochs)
        marked = np.isnan(epochs).all(1) & ~own_rows(which)
        assert marked.sum() == 40 // 5
        assert np.array_equal(watch.y == 4, marked)  # a class that no image is of
        facts = json.loads(files.receipt.read_text())
        assert facts["indicators"]["threshold"] == pytest.approx(np.quantile(table[marked, 5], 0.99), rel=1e-5)
        assert np.array_equal(epochs[~marked], table[~marked], equal_nan=True)
        near(np.load(files.test), by_hand("i", which)[0][60:])  # of the real classes
        assert set(np.flatnonzero(marked)) <= set(np.load(files.rows))


def test_a_student_may_choose_its_epoch(school):
    write("best", 'base = "s"\nselect = "best"\n')
    stage("train", "toy/best")
    assert receipt("toy/best")["level"] == dict.fromkeys("012", "crossfit")
    facts = json.loads(shelf("best", HALVES[2]).receipt.read_text())
    assert facts["chosen_on"] == [0, 2]
    assert set(np.load(shelf("best", HALVES[2]).rows)) == set(np.load(shelf("s", HALVES[2]).rows))


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_students_of_other_tasks(house, task):
    make_competition(house, task)
    config = house / "configs/toy/a.toml"
    config.write_text(config.read_text().replace("epochs = 3", "epochs = 1"))
    prepare()
    quota = 1.0 if task == "regression" else 0.5
    write("p", f'stage = "pseudo"\nrun = "a"\nquota = {quota}\ntargets = "sharpened"\nweight = "confidence"\n')
    write("s", 'base = "a"\npseudo = "p"\n')
    stage("train", "toy/a")
    stage("pseudo", "toy/p")
    stage("train", "toy/s")
    assert labels().filter(regex="^t").isna().any(axis=None) == (task == "multilabel")
    oof = np.load("runs/toy/s/oof.npy")
    assert oof.shape == (60, 3 if task == "multilabel" else 1)
    assert np.isfinite(oof).all()
    assert np.isfinite(receipt("toy/s")["metrics"]["score"])
