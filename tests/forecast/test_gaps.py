"""The gap table says which gap is the largest, and the curves whether training was too long or too short."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

from pipeline.forecast.gaps import curves, gaps, in_words, judged, told_of
from pipeline.scoring.metrics import get_metric
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import RunFiles
from pipeline.tasks import TASKS


def problem_of(y, folds, metric="accuracy", task="multiclass"):
    return Problem(TASKS[task], get_metric(metric, TASKS[task]), 10, y, folds, None)


def fitted(x, y, folds, model):
    """What a model of each fold says of all rows, and which it learnt."""
    return {k: model().fit(x[folds != k], y[folds != k]).predict_proba(x) for k in range(3)}, {
        k: folds != k for k in range(3)
    }


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_errors_are_those_of_scikit_learn(metric):
    rng = np.random.default_rng(0)
    y, folds, like = rng.integers(0, 10, 90), np.arange(90) % 3, rng.random(90)
    p = {k: rng.dirichlet(np.ones(10), 90) for k in range(3)}
    learnt = {k: (folds != k) & (np.arange(90) > 8) for k in range(3)}  # some rows are nobody's lesson
    errors, found = gaps(problem_of(y, folds, metric), p, learnt, like)

    def error(p, rows):
        if metric == "accuracy":
            return 1 - (p[rows].argmax(1) == y[rows]).mean()
        return log_loss(y[rows], p[rows], labels=range(10))

    oof = np.choose(folds[:, None], [p[k] for k in range(3)])
    top = np.argsort(-like)[:18]
    near = {"abs": 1e-6}
    assert errors["train"] == pytest.approx(np.mean([error(p[k], learnt[k]) for k in range(3)]), **near)
    assert errors["train-dev"] == pytest.approx(error(oof, np.arange(90)), **near)
    assert errors["dev"] == pytest.approx(error(oof, top), **near)
    assert sum(gap for gap, _ in found.values()) == pytest.approx(errors["dev"])
    assert all(se > 0 for _, se in found.values())


def test_a_shift_of_contrast_is_mismatch():
    """Ledger: more than nine tenths of what is lost."""
    x, y = load_digits(return_X_y=True)
    rng, folds = np.random.default_rng(0), np.arange(1797) % 3
    odd = rng.random(1797) < 0.2
    x = np.where(odd[:, None], 16 - x, x)
    models = {k: LogisticRegression(max_iter=300).fit(x[~odd & (folds != k)], y[~odd & (folds != k)]) for k in range(3)}
    p = {k: model.predict_proba(x) for k, model in models.items()}
    learnt = {k: ~odd & (folds != k) for k in range(3)}
    errors, found = gaps(problem_of(y, folds), p, learnt, odd.astype(float))
    # Rows of the other domain are held out too: without them the second error is that of the first domain.
    plain = gaps(problem_of(y[~odd], folds[~odd]), {k: v[~odd] for k, v in p.items()},
                 {k: v[~odd] for k, v in learnt.items()}, np.zeros((~odd).sum()))[0]  # fmt: skip
    assert errors["dev"] - plain["train-dev"] > 0.9 * errors["dev"]
    assert max(found, key=lambda name: found[name][0]) == "mismatch"


def test_few_noisy_rows_are_variance():
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    x, y, folds = x[:300] + rng.normal(0, 8, (300, 64)), y[:300], np.arange(300) % 3
    found = gaps(problem_of(y, folds), *fitted(x, y, folds, lambda: LogisticRegression(max_iter=500)), rng.random(300))
    gap = found[1]
    assert max(gap, key=lambda name: gap[name][0]) == "variance"
    assert gap["variance"][0] > 5 * gap["variance"][1]
    assert abs(gap["mismatch"][0]) < 3 * gap["mismatch"][1]


def test_rows_that_are_all_alike_are_chosen_by_chance():
    """The first rows of a sorted table stand for nobody."""
    y, folds = np.repeat(np.arange(10), 30), np.arange(300) % 3
    p = {k: np.eye(10)[np.where(y < 2, (y + 1) % 10, y)] for k in range(3)}
    errors, _ = gaps(problem_of(y, folds), p, {k: folds != k for k in range(3)}, np.full(300, 0.5))
    assert errors["train-dev"] == pytest.approx(0.2)
    assert 0.05 < errors["dev"] < 0.4


# The verdict of the curves


def learn(rows, epochs, rate):
    """Losses of training and held-out rows after each epoch of three small networks on digits."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(1)
    x, y, folds = (x[:rows] + rng.normal(0, 4, (rows, 64))) / 16, y[:rows], np.arange(rows) % 3
    logs = []
    for k in range(3):
        net, seen = MLPClassifier((64,), alpha=0.0, learning_rate_init=rate, batch_size=32, random_state=k), []
        for _ in range(epochs):
            net.partial_fit(x[folds != k], y[folds != k], classes=range(10))
            seen.append([log_loss(y[m], net.predict_proba(x[m]), labels=range(10)) for m in (folds != k, folds == k)])
        logs.append(seen)
    return np.array(logs)


@pytest.mark.parametrize("rows, epochs, rate, wanted", [
    (300, 60, 1e-2, "over"), (900, 3, 3e-3, "under"), (900, 5, 3e-4, "under"), (1797, 12, 3e-3, "fine"),
])  # fmt: skip
def test_verdicts_of_networks(rows, epochs, rate, wanted):
    assert judged(learn(rows, epochs, rate))[0] == wanted


@given(st.integers(2, 6), st.integers(2, 30), st.integers(0, 99))
def test_curves_of_noise_have_no_verdict_by_their_own_choice(models, epochs, seed):
    """An epoch chosen on the same curve would always have risen since: chosen on the others it has as often fallen."""
    logs = np.random.default_rng(seed).normal(1, 0.1, (models, epochs, 2))
    _, evidence = judged(logs)
    valid = logs[:, :, 1]
    own = (valid[:, -1] - valid.min(1)).mean()
    assert evidence["risen since the best epoch"][0] <= own + 1e-12
    assert all(low <= mean for mean, low in evidence.values())


def test_noise_is_seldom_a_verdict():
    rng = np.random.default_rng(0)
    found = [judged(rng.normal(1, 0.1, (5, 20, 2)))[0] for _ in range(300)]
    assert found.count("fine") > 0.85 * 300


# From a shelf


def shelf(tmp_path, monkeypatch, halves=False, logs=True):
    monkeypatch.chdir(tmp_path)
    y, folds = np.arange(60) % 10, np.arange(60) % 3
    for k in range(3):
        folder = tmp_path / f"runs/toy/a/fold{k}"
        for at, part in enumerate([folder / "half0", folder / "half1"] if halves else [folder]):
            part.mkdir(parents=True)
            rows = np.flatnonzero(folds != k)
            np.save(part / "rows.npy", (rows[at::2] if halves else rows).astype(np.int32) + 100)
            if logs:
                lines = [{"step": 0, "epoch": 0, "loss": 1.0}]
                lines += [{"train_loss": 1 / (e + 1), "valid_loss": 1.0 + 0.1 * e + 0.01 * k} for e in range(6)]
                (part / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        np.save(folder / "train.npy", np.eye(10)[np.where(folds == k, (y + 1) % 10, y)])
    return problem_of(y, folds)


@pytest.mark.parametrize("halves", [False, True])
def test_a_shelf_is_told(tmp_path, monkeypatch, halves):
    problem = shelf(tmp_path, monkeypatch, halves)
    found = told_of(RunFiles("toy/a"), range(3), problem, np.arange(60) + 100, np.zeros(60), (-0.2, 0.1))
    assert found.errors == pytest.approx({"train": 0.0, "train-dev": 1.0, "dev": 1.0, "test": 0.8})
    assert (found.largest, found.verdict) == ("variance", "over")
    words = "\n".join(in_words(found, "toy/a"))
    assert "the largest is variance" in words
    assert "over-fitted" in words


def test_without_logs_there_is_no_verdict(tmp_path, monkeypatch):
    """As of features that nobody trains."""
    problem = shelf(tmp_path, monkeypatch, logs=False)
    found = told_of(RunFiles("toy/a"), range(3), problem, np.arange(60) + 100, np.zeros(60), (0.0, 0.1))
    assert (found.verdict, found.evidence) == (None, {})
    assert curves(RunFiles("toy/a").fold(0)).shape == (0, 2)
    assert len(in_words(found, "toy/a")) == 2
