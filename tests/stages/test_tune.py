"""make tune: found, confirmed, written, resumed, refused."""

import csv
import sys
from pathlib import Path

import pytest
from house import make_competition, prepare, stage, write
from tries import Trainer

from pipeline.store.errors import UserError
from pipeline.store.files import read_json
from pipeline.store.runs import load_run

SEARCH = """stage = "tune"
base = "a"
trials = 14
coarse = 8
[search]
optim.lr = { low = 1e-4, high = 1.0, log = true }
batch_size = [16, 8]
"""
BEST = Path("configs/toy/tune_best.toml")


def skill(config):
    """Best at 0.1, where the base is at 0.01; hopeless above 0.5."""
    from math import log10

    return -1 if config.optim.lr > 0.5 else max(0.1, 0.95 - 0.4 * abs(log10(config.optim.lr) + 1))


@pytest.fixture
def toy(house):
    make_competition(house, "multiclass", n_train=180, n_test=8)
    prepare()
    write("tune", SEARCH)
    return house


@pytest.fixture
def trainer(toy, monkeypatch):
    return Trainer(monkeypatch, skill)


def tried():
    return list(csv.DictReader(Path("runs/toy/tune/trials.csv").read_text().splitlines()))


def test_found_and_confirmed_where_it_was_not_chosen(trainer, capsys):
    stage("tune", "toy/tune")
    rows, receipt = tried(), read_json(Path("runs/toy/tune/cv.json"))
    done = [row for row in rows if row["state"] == "done"]
    assert len(rows) == 14
    assert receipt["best"]["gain"] == max(float(row["score"]) for row in done)
    assert receipt["folds"] == [1, 2]
    assert receipt["verdict"] == "confirmed"
    assert receipt["effect"]["gain"] == pytest.approx(receipt["metrics"]["score"] - receipt["default"]["score"])
    told = [read_json(p) for p in Path("runs/toy/tune").glob("*/s*/cv.json")]
    assert {tuple(t["folds"]) for t in told if t["config"]["seed"] == 0} == {(0,)}
    assert {tuple(t["folds"]) for t in told if t["config"]["seed"] > 0} == {(1, 2)}
    assert {t["config"]["seed"] for t in told} == {0, 1, 2, 3}
    text, run = BEST.read_text(), load_run("toy/tune_best")
    assert text.startswith("# a with settings found by make tune COMP=toy NAME=tune.\n")
    assert "# gain +" in text
    assert run.optim.lr == receipt["best"]["settings"]["optim.lr"]
    assert (run.epochs, run.batch_size) in ((3, 16), (2, 8))  # 8 steps an epoch and 15, as many in all
    assert run.model == load_run("toy/a").model
    stage("status")
    assert "done     toy/tune" in capsys.readouterr().out


def test_what_fails_is_no_reason_to_stop(trainer):
    write("tune", SEARCH.replace("high = 1.0", "high = 2.0").replace("low = 1e-4", "low = 0.05"))
    stage("tune", "toy/tune")
    assert any("loss is not finite" in row["state"] for row in tried())


def test_killed_and_run_again(trainer):
    """By chance, in the refinement and in the confirmation."""
    for stop_at in (3, 10, 15):
        trainer.stop_at = stop_at
        with pytest.raises(KeyboardInterrupt):
            stage("tune", "toy/tune")
        assert len(trainer.fits) == stop_at
        assert not BEST.exists()
    trainer.stop_at = None
    stage("tune", "toy/tune")
    assert len(set(trainer.fits)) == len(trainer.fits)  # nothing twice
    rows, text = tried(), BEST.read_text()
    stage("tune", "toy/tune")
    assert BEST.read_text() == text
    Path("runs/toy").rename("before")
    BEST.unlink()
    stage("tune", "toy/tune")
    assert tried() == rows
    assert BEST.read_text() == text


def test_another_config_of_that_name_is_kept(trainer):
    BEST.write_text("# mine\n")
    with pytest.raises(UserError, match="configs/toy/tune_best.toml exists already and was not written by this search"):
        stage("tune", "toy/tune")
    assert not trainer.fits
    BEST.unlink()
    stage("tune", "toy/tune")
    write("tune", SEARCH + "optim.clip = [0.0, 1.0]\n")
    with pytest.raises(UserError, match="was not written by this search: move it away"):
        stage("tune", "toy/tune")


def test_trained_in_earnest_and_pruned(house):
    make_competition(house, "multiclass", n_train=60, n_test=8)
    prepare()
    write("tune", """stage = "tune"
base = "a"
trials = 12
coarse = 8
seeds = 2
fold = 1
search.optim.lr = { low = 1e-6, high = 0.1, log = true }
search.augment.recipe = ["none", "light"]
""")  # fmt: skip
    stage("tune", "toy/tune")
    receipt, rows = read_json(Path("runs/toy/tune/cv.json")), tried()
    assert receipt["folds"] == [0, 2]
    assert receipt["best"]["settings"]["optim.lr"] > 1e-4
    assert {row["state"] for row in rows} <= {"done", "pruned"}
    # A pruned fit stopped at a rung: after one epoch of three, or two.
    pruned = [
        read_json(Path(f"runs/toy/tune/t{int(r['trial']):03d}/s0/cv.json")) for r in rows if r["state"] == "pruned"
    ]
    assert all(len(told["curves"][0]) in (1, 2) for told in pruned)
    assert pruned


WRONG = {
    'stage = "tune"\nbase = "a"\n': "[search] must be a table of changes",
    'stage = "tune"\nbase = "a"\nsearch.optim.lr = 0.1\n': "search.optim.lr must be a list of values, or { low",
    'stage = "tune"\nbase = "a"\nsearch.optim.lr = []\n': "search.optim.lr must be a list of values",
    'stage = "tune"\nbase = "a"\nsearch.optim.lr = { low = 1.0, high = 0.1 }\n': "search.optim.lr: low must be below high",
    'stage = "tune"\nbase = "a"\nsearch.optim.lr = { low = 0.0, high = 0.1, log = true }\n': "above 0 with log = true",
    'stage = "tune"\nbase = "a"\nsearch.optim.lr = { low = 0.1, hihg = 0.2 }\n': "unknown key 'hihg'; did you mean 'high'",
    'stage = "tune"\nbase = "a"\nsearch.optim.lrr = [0.1]\n': "search.optim.lrr: unknown key 'optim.lrr'; did you mean 'lr'",
    'stage = "tune"\nbase = "a"\nsearch.model.dropout = { low = 0.1, high = 1.5 }\n': "model.dropout: Input should be less",
    'stage = "tune"\nbase = "a"\nsearch.epochs = [3, 4]\n': "epochs cannot be changed here",
    'stage = "tune"\nbase = "a"\nsearch.augment.recipe = ["lihgt"]\n': "did you mean 'light'",
    'stage = "tune"\nbase = "a"\nfold = 3\nsearch.optim.lr = [0.1]\n': "there is no fold 3; choices: [0, 1, 2]",
    'stage = "tune"\nbase = "a"\ntrial = 3\nsearch.optim.lr = [0.1]\n': "unknown key 'trial'; did you mean 'trials'",
    'stage = "tune"\nbase = "a"\nselect = "best"\nsearch.optim.lr = [0.1]\n': "a search has one",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_one_line_before_anything_is_trained(text, trainer):
    write("tune", text)
    with pytest.raises(UserError) as caught:
        stage("tune", "toy/tune")
    assert WRONG[text] in str(caught.value)
    assert "configs/toy/tune.toml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not trainer.fits


def test_settings_that_exclude_each_other_are_passed_over(trainer):
    write(
        "tune",
        'stage = "tune"\nbase = "a"\ntrials = 8\nsearch.average.ema = [0.0, 0.9]\nsearch.average.swa = [0.0, 0.5]\n',
    )
    stage("tune", "toy/tune")
    rows = tried()
    both = [row for row in rows if row["average.ema"] == "0.9" and row["average.swa"] == "0.5"]
    assert {row["state"] for row in both} == {"these settings exclude each other"}
    assert len([run for run in trainer.fits if run.endswith("/s0")]) <= 3  # what comes again is not fitted again


def test_without_optuna(trainer, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="a search needs optuna"):
        stage("tune", "toy/tune")
