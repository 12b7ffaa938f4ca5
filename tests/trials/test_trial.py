"""One trial, trained: what it leaves, after a kill and with other predictions of the same models."""

from dataclasses import replace

import numpy as np
import pytest
from house import make_competition, prepare, stage, write
from tries import table_of

from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import read_json
from pipeline.store.runs import load_run
from pipeline.store.toml import parents, read_run
from pipeline.store.tracking import Tracker
from pipeline.trials.bench import Bench, Trial, Unit
from pipeline.trials.fresh import why_not
from pipeline.trials.trial import attempt, guess_of, is_done, receipt_of, shared_fit


@pytest.fixture
def bench(house):
    make_competition(house, "binary", metric="f1")
    prepare()
    write("abl", 'stage = "ablate"\nbase = "a"\nvariants.views.predict.tta = "hflip"\n')
    return Bench.of("toy/abl")


@pytest.fixture
def config():
    return load_run("toy/abl")


def test_a_trial_scores_as_the_run_does(bench, config):
    """Same folds, seed and epochs: the out-of-fold score of a trial is that of make train, cuts and all."""
    stage("train", "toy/a")
    trial = Trial("base", config.base, bench.folds)
    assert not is_done(bench, trial)
    attempt(bench, Unit((trial,)))
    assert is_done(bench, trial)
    told, run = receipt_of(bench, trial), read_json(RunFiles("toy/a").receipt)
    assert told["metrics"]["score"] == pytest.approx(run["metrics"]["score"], abs=1e-12)
    assert told["level"] == "blind"
    assert [len(curve) for curve in told["curves"]] == [3, 3, 3]


def test_what_is_done_to_the_head_after_training(house):
    """Variants that only predict otherwise share the fit of the base, and score as make train does."""
    make_competition(house, "multiclass", metric="log_loss")
    prepare()
    write("tau", 'base = "a"\npredict.logit_adjust = 0.5\ndecouple.method = "tau"\n')
    write(
        "abl",
        'stage = "ablate"\nbase = "a"\n[variants]\ntau = { predict.logit_adjust = 0.5, decouple.method = "tau" }\n',
    )
    stage("train", "toy/tau")
    bench, config = Bench.of("toy/abl"), load_run("toy/abl")
    base, tau = (
        Trial(name, run, bench.folds) for name, run in (("base", config.base), ("tau", config.variants["tau"]))
    )
    assert shared_fit(bench, base) == shared_fit(bench, tau)
    attempt(bench, Unit((base, tau)))
    scores = [receipt_of(bench, trial)["metrics"]["score"] for trial in (base, tau)]
    assert scores[1] == pytest.approx(read_json(RunFiles("toy/tau").receipt)["metrics"]["score"], abs=1e-9)
    assert abs(scores[0] - scores[1]) > 1e-3


def test_what_a_machine_probes_is_told(bench, config):
    run = config.base.model_copy(update={"fastest": True})
    attempt(bench, Unit((Trial("base", run, (0,)),)))
    machine = receipt_of(bench, Trial("base", run, (0,)))["machine"]
    assert machine["gain"] >= 1


def test_models_that_only_predict_otherwise_are_fitted_once(bench, config):
    pair = (Trial("base", config.base, (0, 1)), Trial("views", config.variants["views"], (0, 1)))
    attempt(bench, Unit(pair))
    alone = Trial("alone", config.variants["views"], (0, 1))
    attempt(bench, Unit((alone,)))
    np.testing.assert_array_equal(guess_of(bench, pair[1]), guess_of(bench, alone))
    assert not pair[1].files(bench.files).fold(0).log.exists()
    left = {path.name for path in bench.files.folder.rglob("*") if path.is_file()}
    assert left == {"cv.json", "judged.npy", "log.jsonl", "state.json"}


def test_a_kill_costs_no_more_than_an_epoch(bench, config, monkeypatch):
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    whole, killed = Trial("whole", config.base, (0, 1)), Trial("killed", config.base, (0, 1))
    attempt(bench, Unit((whole,)))

    def stop(self, numbers):
        if numbers["epoch"] == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            attempt(bench, Unit((killed,)))
    assert killed.files(bench.files).fold(0).last.exists()
    attempt(bench, Unit((killed,)))
    np.testing.assert_array_equal(guess_of(bench, killed), guess_of(bench, whole))


def test_students_are_put_together(house):
    make_competition(house, "multiclass")
    prepare()
    write("q", 'base = "a"\nepochs = 1\n')
    stage("train", "toy/q")
    write("p", 'stage = "pseudo"\nrun = "q"\n')
    stage("pseudo", "toy/p")
    write("abl", 'stage = "ablate"\nbase = "q"\nvariants.student.pseudo = "p"\n')
    assert parents("toy/abl", read_run("toy/abl")[0]) == ["toy/p"]
    bench, student = Bench.of("toy/abl"), load_run("toy/abl").variants["student"]
    assert "pseudo = ... is blind to the committed folds only" in str(why_not(bench.files.competition, student))
    trial = Trial("student", student, (0,))
    attempt(bench, Unit((trial,)))
    assert [parent["run"] for parent in receipt_of(bench, trial)["parents"]] == ["toy/p"]
    assert guess_of(bench, trial).shape == (20,)


def test_a_changed_setting_metric_or_split_is_another_trial(bench, config):
    trial = Trial("base", config.base, (0, 1))
    attempt(bench, Unit((trial,)))
    assert not is_done(bench, replace(trial, folds=(0, 2)))
    assert not is_done(bench, replace(trial, config=config.base.model_copy(update={"decision": "fixed"})))
    other = Trial("base", config.base, (0, 1), split=3)
    assert other.files(bench.files) != trial.files(bench.files)
    attempt(bench, Unit((other,)))
    fresh, table = bench.table_of(3), table_of()
    assert len(guess_of(bench, other)) == np.isin(fresh.folds, (0, 1)).sum()
    problem = bench.problem(other)
    assert isinstance(problem, Problem)
    assert set(problem.folds.tolist()) == {0, 1}
    assert (fresh.folds != table.folds).any()
