"""Rows split several times: a model a repeat and fold, their mean out of fold, roles and proofs within a repeat."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from house import ROOT, make_competition, prepare, stage, write
from safetensors.torch import load_file
from school import filled

from pipeline.audit.refit import refit
from pipeline.audit.report import audit
from pipeline.store.artifacts import RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import digest, digest_file, read_json, write_json
from pipeline.store.keys import read_table_facts
from pipeline.store.shelves import as_out_of_fold, of_repeat
from pipeline.store.table import read_table

CONFIGS = {
    "b": 'base = "a"\nseed = 1\npairs = true\n',
    "blend": 'stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "convex"\n',
    "best": 'base = "a"\nseed = 3\nselect = "best"\nepochs = 3\n',
    "p": 'stage = "pseudo"\nrun = "blend"\nquota = 0.8\ntargets = "soft"\n',
    "s": 'base = "a"\npseudo = "p"\ninit = "b"\n',
    "d": 'base = "a"\nteacher = "b"\ndistill.nested = "pairs"\n',
    "t": 'stage = "tag"\nrun = "blend"\n',
    "strict": 'stage = "tag"\nrun = "b"\nstrict = true\n',
    "g": 'base = "a"\ntags = "t"\ndifficulty.suspect = "relabel"\n',
    "p2": 'stage = "pseudo"\nrun = "s"\ntags = "t"\nstop = false\nhalves = false\n',
    "stack": 'stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "logistic"\n',
    "top": 'stage = "ensemble"\nmembers = ["blend", "stack", "s", "d", "g", "best"]\n',
    "l": 'stage = "lb"\nrun = "top"\n',
}
STAGES = {"blend": "ensemble", "stack": "ensemble", "top": "ensemble", "p": "pseudo", "p2": "pseudo", "t": "tag"}
STAGES |= {"strict": "tag", "l": "lb"}
MODELS = [(r, k) for r in (0, 1) for k in (0, 1, 2)]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A house whose rows are split twice, with every kind of run."""
    return filled(tmp_path_factory.mktemp("house"), CONFIGS, STAGES, extra="repeats = 2\n")


@pytest.fixture
def twice(first, tmp_path, monkeypatch):
    """A copy of it for a test alone."""
    shutil.copytree(first, tmp_path / "house")
    monkeypatch.chdir(tmp_path / "house")
    return tmp_path / "house"


def the_table():
    files = RunFiles("toy/a").competition
    return read_table(files, read_table_facts(files))


def folds_of(repeat):
    table = the_table()
    return table.repeats[table.scored, repeat]


def files_of(run, repeat, fold):
    return RunFiles(f"toy/{run}").fold(fold, repeat)


def mean(arrays):
    return np.mean(arrays, 0, dtype=np.float64).astype(np.float32)


# What training leaves.


def test_every_model_leaves_out_the_fold_of_its_repeat(twice):
    table = the_table()
    assert (folds_of(0) != folds_of(1)).any()
    for run, (r, k) in [(run, model) for run in ("a", "d", "g", "best") for model in MODELS]:
        files = files_of(run, r, k)
        np.testing.assert_array_equal(np.load(files.rows), table.scored[folds_of(r) != k])
        np.testing.assert_array_equal(np.load(files.train)[folds_of(r) == k], np.load(files.oof))
        receipt = read_json(files.receipt)
        assert (receipt["repeat"], receipt["held_out"]) == (r, [k])
    rows = np.load(RunFiles("toy/b").pair(0, 2, 1).rows)
    np.testing.assert_array_equal(rows, table.scored[folds_of(1) == 1])
    assert str(RunFiles("toy/b").pair(0, 2, 1).folder) == "runs/toy/b/repeat1/pair0-2"


@pytest.mark.parametrize("run", ["a", "s", "best"])
def test_predictions_are_means_over_repeats(run, twice):
    each = np.zeros((2, 60, 4), np.float32)
    for r, k in MODELS:
        each[r, folds_of(r) == k] = np.load(files_of(run, r, k).oof)
    assert (each[0] != each[1]).any()
    np.testing.assert_array_equal(np.load(f"runs/toy/{run}/oof.npy"), mean(each))
    tests = [np.load(files_of(run, r, k).test) for r, k in MODELS]
    np.testing.assert_allclose(np.load(f"runs/toy/{run}/test.npy"), mean(tests), atol=1e-6)
    np.testing.assert_array_equal(of_repeat(f"toy/{run}", the_table(), 1), each[1])
    np.testing.assert_array_equal(as_out_of_fold(f"toy/{run}", 2, 1), mean([tests[1], tests[4]]))
    np.testing.assert_array_equal(as_out_of_fold(f"toy/{run}", 1, 1), tests[1])


def test_the_scores_of_one_repeat_and_of_their_mean(twice):
    metrics, y = read_json(Path("runs/toy/a/cv.json"))["metrics"], the_table().y[the_table().scored, 0]
    scores = [(of_repeat("toy/a", the_table(), r).argmax(1) == y).mean() for r in (0, 1)]
    assert metrics["by_repeat"] == pytest.approx([*scores, metrics["score"]])
    assert metrics["size_matched"]["models"] == 6
    told = Path("runs/toy/a/run.log").read_text()
    assert f"one repeat alone {np.mean(scores):.4f} (sd {np.std(scores, ddof=1):.4f}), the mean of 2" in told
    assert "expected of the mean of 6 on test" in told


def test_repeat_0_is_the_run_without_repeats(twice, tmp_path, monkeypatch):
    (tmp_path / "once").mkdir()
    monkeypatch.chdir(tmp_path / "once")
    make_competition(tmp_path / "once", "multiclass")
    prepare()
    shutil.copy(twice / "configs/toy/a.toml", "configs/toy/a.toml")
    stage("train", "toy/a")
    for k in range(3):
        for name in ("oof", "test", "train", "emb", "epochs", "rows"):
            path = f"runs/toy/a/fold{k}/{name}.npy"
            assert Path(path).read_bytes() == (twice / path).read_bytes(), path
        here, there = load_file(f"runs/toy/a/fold{k}/model.safetensors"), load_file(twice / files_of("a", 1, k).model)
        assert any((here[name] != there[name]).any() for name in here)  # another seed
    assert not list(Path("runs").glob("**/repeat*"))
    assert read_json(Path("runs/toy/a/cv.json"))["metrics"].get("by_repeat") is None


def test_an_epoch_is_chosen_within_a_repeat(twice):
    for r in (0, 1):
        logs = [files_of("best", r, k).log.read_text().splitlines() for k in range(3)]
        curves = np.array(
            [[float(m[1]) for line in log if (m := re.search(r'valid_accuracy": ([\d.]+)', line))] for log in logs]
        )
        assert curves.shape == (3, 3)
        for k in range(3):
            receipt = read_json(files_of("best", r, k).receipt)
            assert receipt["epoch"] == np.delete(curves, k, 0).mean(0).argmax()
            assert receipt["chosen_on"] == [j for j in range(3) if j != k]


# Roles.


def test_labels_come_from_models_of_the_same_repeat(twice):
    labels = pd.read_csv("runs/toy/p/pseudo.csv", dtype={"id": str})
    ids = the_table().ids[the_table().test]
    for r, k in MODELS:
        mine = labels[(labels["repeat"] == r) & (labels["fold"] == k)].set_index("id")
        assert len(mine) > 10
        said = np.mean([np.load(files_of(run, r, k).test) for run in ("a", "b")], 0)
        at = pd.Index(ids).get_indexer(mine.index)
        np.testing.assert_allclose(mine.filter(regex=r"^t\d").to_numpy(), said[at], atol=1e-6)
        for half in (0, 1):
            rows = np.load(files_of("s", r, k).half(half).rows)
            learnt = the_table().ids[rows[np.isin(rows, the_table().test)]]
            assert sorted(learnt) == sorted(mine.index[mine["half"] == half])


def test_expected_precision_is_of_one_model_a_row(twice):
    from pipeline.scoring.teacher import Teacher

    teacher = Teacher([RunFiles("toy/a"), RunFiles("toy/b")], None, None)
    said = [of_repeat(f"toy/{run}", the_table(), 0) for run in ("a", "b")]
    np.testing.assert_array_equal(teacher.oof(the_table()), said)
    np.testing.assert_array_equal(teacher.test(2, 1), [np.load(files_of(run, 1, 2).test) for run in ("a", "b")])


def test_tags_name_the_models_of_each_repeat(twice):
    for name in ("t", "strict"):
        tags = pd.read_csv(f"runs/toy/{name}/difficulty_train.csv", dtype={"id": str})
        scored = the_table().ids[the_table().scored]
        for r, k in MODELS:
            mine = tags[(tags["repeat"] == r) & (tags["fold"] == k)]
            assert set(mine["id"]) & set(scored) == set(scored[folds_of(r) != k])
    by = [tags[tags["repeat"] == r].set_index(["fold", "id"])["weight"] for r in (0, 1)]
    both = by[0].index.intersection(by[1].index)
    assert (by[0][both] != by[1][both]).any()


def test_a_blend_deploys_all_and_judges_by_means(twice):
    for name in ("blend", "stack"):
        receipt = read_json(Path(f"runs/toy/{name}/cv.json"))
        assert not list(Path(f"runs/toy/{name}").glob("repeat*"))
    weights = read_json(Path("runs/toy/blend/cv.json"))["weights_by_fold"]
    for k in range(3):
        said = [as_out_of_fold(f"toy/{run}", 2, k) for run in ("a", "b")]
        np.testing.assert_allclose(
            np.load(f"runs/toy/blend/fold{k}/test.npy"), np.tensordot(weights[str(k)], said, 1), atol=1e-6
        )
        parts = [receipt["metrics"]["size_matched"]["models"], *receipt["level"].values()]
        assert parts == [6, "crossfit", "crossfit", "crossfit"]
    assert "; mean of 6 " in Path("runs/toy/l/run.log").read_text()


def test_pair_models_of_several_splits_do_not_compose(twice):
    write("l2", 'stage = "lb"\nrun = "b"\nstrict = true\n')
    with pytest.raises(UserError, match=r"l2.toml: strict = true needs folds.repeats = 1"):
        stage("lb", "toy/l2")


def test_a_start_from_a_competition_of_one_split(twice):
    make_competition(twice, "ordinal", "far")
    prepare("far")
    Path("configs/far/a.toml").write_text(Path("configs/toy/a.toml").read_text())
    stage("train", "far/a")
    write("x", 'base = "a"\ninit = "far/a"\n')
    stage("train", "toy/x")
    (parent,) = read_json(files_of("x", 1, 2).receipt)["parents"]
    assert list(parent["files"]) == ["runs/far/a/fold2/model.safetensors"]
    assert findings("toy/x") == []


# Proofs.


def findings(run):
    return [str(finding) for finding in audit(run, refit).findings]


def found(run, *words):
    places = [[line.find(word) for word in words] for line in findings(run)]
    assert any(-1 not in at and at == sorted(at) for at in places), "\n".join(findings(run)) or "nothing was found"


def sign():
    """Write the hashes of today's files into all receipts, models first: a leak is not a broken hash."""
    for path in sorted(Path("runs").glob("*/*/**/*.json"), key=lambda path: -len(path.parts)):
        if path.name in ("fold.json", "cv.json"):
            receipt = read_json(path)
            outputs = {name: digest_file(Path(name)) for name in receipt["outputs"]}
            parents = [
                parent | {"files": {name: digest_file(Path(name)) for name in parent["files"]}}
                if "files" in parent
                else parent
                for parent in receipt.get("parents", [])
            ]
            write_json(path, receipt | {"outputs": outputs, "parents": parents})


def test_nothing_is_found_where_nothing_leaks(twice, capsys):
    for run in ("l", "p2", "strict"):
        assert findings(f"toy/{run}") == []
    sign()
    assert findings("toy/l") == []
    stage("audit", "toy/l")
    told = capsys.readouterr().out
    assert "member toy/a  train  blind  6 models, each trained on 40 rows" in told
    stage("submit", "toy/l")
    assert len(pd.read_csv("submissions/toy/l.csv")) == 24


def test_a_model_of_repeat_1_that_learnt_rows_it_predicts(twice):
    table, files = the_table(), files_of("a", 1, 0)
    rows = table.scored
    np.save(files.rows, rows.astype(np.int32))
    seen = np.load(files.epochs)
    seen[np.isnan(seen[:, 0])] = 0.5
    np.save(files.epochs, seen)
    write_json(files.receipt, read_json(files.receipt) | {"trained_on": {"rows": 60, "ids": digest(*table.ids[rows])}})
    sign()
    own = (folds_of(1) == 0).sum()
    found("toy/a", "toy/a/repeat1/fold0: trained on", f"{own} rows of fold 0 of repeat 1", "level saw")
    found("toy/s", "toy/s/repeat1/fold0/half", "pseudo toy/p -> toy/a/repeat1/fold0: trained on")
    found("toy/blend", "member toy/a -> toy/a/repeat1/fold0: trained on")
    found("toy/g", "toy/g/repeat1/fold0 -> tags toy/t -> toy/a/repeat1/fold0: trained on")
    assert not any("repeat1/fold1:" in line for line in findings("toy/s"))


def swap(one, other):
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def test_models_of_two_repeats_swapped(twice):
    zero, one = files_of("a", 0, 1), files_of("a", 1, 1)
    for path in zero.folder.iterdir():
        if path.suffix in (".npy", ".safetensors"):
            swap(path, one.folder / path.name)
    facts = [read_json(files.receipt) for files in (zero, one)]
    for files, mine, theirs in ((zero, *facts), (one, *facts[::-1])):
        write_json(files.receipt, mine | {"trained_on": theirs["trained_on"]})
    sign()
    found("toy/a", "toy/a/fold1: trained on", "rows of fold 1, for example")
    found("toy/a", "toy/a/repeat1/fold1: trained on", "rows of fold 1 of repeat 1")


def test_a_receipt_of_another_repeat(twice):
    path = files_of("a", 1, 2).receipt
    write_json(path, read_json(path) | {"repeat": 0})
    sign()
    found("toy/a", "repeat1/fold2: its folder is of repeat 1, its receipt says 0")


def test_predictions_of_two_repeats_swapped(twice):
    swap(files_of("a", 0, 0).oof, files_of("a", 1, 0).oof)
    sign()
    found("toy/a", "toy/a/oof.npy: rows of fold 0 are not the predictions of the models of all repeats, in the mean")
    found("toy/a", "toy/a/repeat1/fold0: train.npy and oof.npy predict its own rows differently")


def test_predictions_of_one_repeat_in_the_place_of_the_mean(twice):
    np.save("runs/toy/a/oof.npy", of_repeat("toy/a", the_table(), 1))
    sign()
    found("toy/a", "oof.npy: rows of fold 2 are not the predictions of the models of all repeats")


def test_predictions_of_too_few_rows(twice):
    path = files_of("a", 1, 0).oof
    np.save(path, np.load(path)[1:])
    sign()
    found("toy/a", "repeat1/fold0/oof.npy: is not of the rows of fold 0")


def test_a_repeat_that_is_missing(twice):
    path = Path("runs/toy/a/cv.json")
    receipt = read_json(path)
    receipt["outputs"] = {name: known for name, known in receipt["outputs"].items() if "repeat1/fold2" not in name}
    write_json(path, receipt)
    found("toy/a", "has not one model for each of the folds [0, 1, 2] in each of 2 repeats")


def edit(path, function):
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    function(frame).to_csv(path, index=False)
    sign()


def swapped(frame):
    return frame.assign(repeat=np.where(frame["repeat"] == "1", "0", "1"))


def test_labels_of_another_repeat(twice):
    edit("runs/toy/p/pseudo.csv", swapped)
    told = findings("toy/p")
    assert sum("are not what models of fold" in line or "are chosen otherwise" in line for line in told) >= 3
    found("toy/s", "toy/s/repeat1/fold0/half", "test rows that no pseudo-label gives it")
    edit("runs/toy/p/pseudo.csv", lambda frame: frame.assign(repeat="2"))
    found("toy/p", "pseudo.csv: names models of repeats that are not there, for example 2")


def test_tags_of_another_repeat(twice):
    edit("runs/toy/t/difficulty_train.csv", swapped)
    found("toy/t", "difficulty_train.csv: tags", "rows for the very model that never trains on them")
    found("toy/t", "tags are not what models of fold")


def test_weights_of_another_repeat(twice):
    shutil.copy(files_of("a", 0, 1).model, files_of("a", 1, 1).model)
    sign()
    found("toy/a", "repeat1/fold1/model.safetensors: is a copy of runs/toy/a/fold1/model.safetensors")


def test_the_student_of_another_repeat(twice):
    path = files_of("s", 1, 0).half(0).receipt
    receipt = read_json(path)
    for parent in receipt["parents"]:
        parent["files"] = {name.replace("/repeat1", ""): "" for name in parent["files"]}
    write_json(path, receipt)
    sign()
    found("toy/s", "toy/s/repeat1/fold0/half0 -> init toy/b -> toy/b/fold0: trained on", "of fold 0 of repeat 1")


# Kills, holdouts, cuts.


def test_kill_9_in_a_later_repeat(house):
    make_competition(house, "multiclass", extra="repeats = 2\n")
    config = house / "configs/toy/a.toml"
    config.write_text(config.read_text().replace("epochs = 3", "epochs = 30").replace('"none"', '"light"'))
    prepare()
    stage("train", "toy/a")
    whole = {str(p): p.read_bytes() for p in Path("runs").glob("**/*.npy")}
    assert sum("repeat1" in path for path in whole) == 21
    os.rename("runs", "whole")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PODIUM_CHECKPOINT_SECONDS": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.stages.train", "toy/a"], env=env, stderr=subprocess.DEVNULL
    )
    begun = files_of("a", 1, 1).log
    for _ in range(60000):
        if begun.exists() and begun.read_text().count("valid_loss") >= 5:
            break
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert files_of("a", 1, 1).last.exists()
    stage("train", "toy/a")
    assert {str(p): p.read_bytes() for p in Path("runs").glob("**/*.npy")} == whole


@pytest.mark.parametrize("task", ["ordinal", "binary", "regression", "multilabel"])
def test_other_tasks_with_a_holdout(task, house):
    make_competition(house, task, extra="repeats = 3\nholdout = 0.2\n", metric="f1" if task == "binary" else "")
    prepare()
    tuned = 'decision = "optimal"\n' if task != "regression" else ""
    for name in ("a", "b"):
        write(name, f"{tuned}{Path(f'configs/toy/{name}.toml').read_text()}".replace("epochs = 3", "epochs = 1"))
    write("l", 'stage = "lb"\nrun = "blend"\n')
    for name, target in (("a", "train"), ("b", "train"), ("blend", "ensemble"), ("l", "lb"), ("l", "submit")):
        stage(target, f"toy/{name}")
    for name, count in (("holdout", 9), ("test", 9)):
        models = [np.load(path) for path in sorted(Path("runs/toy/a").glob(f"**/fold*/{name}.npy"))]
        assert len(models) == count
        np.testing.assert_allclose(np.load(f"runs/toy/a/{name}.npy"), mean(models), rtol=1e-5, atol=1e-6)
    held = the_table().holdout
    assert len(held)
    assert not any(np.isin(np.load(path), held).any() for path in Path("runs/toy").glob("**/rows.npy"))
    assert {"toy/a", "toy/b"} <= set(pd.read_csv("folds/toy.looks.csv")["run"])
    assert findings("toy/l") == []
