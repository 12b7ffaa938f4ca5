"""Stackers: against scikit-learn by hand, and blind to the labels of the fold they predict."""

from dataclasses import replace

import numpy as np
import pytest
from problems import ROW_TASKS as TASKS
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from pipeline.scoring.cuts import Problem
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.stack import GRIDS, Stack, inputs

METRIC = {
    "binary": "log_loss",
    "multiclass": "log_loss",
    "multilabel": "log_loss",
    "ordinal": "rmse",
    "regression": "rmse",
}
CASES = [
    (task, method) for task in TASKS for method in (("logistic" if TASKS[task].probabilities else "ridge"), "boosted")
]


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    monkeypatch.setitem(GRIDS, "boosted", {"max_leaf_nodes": [3, 8], "max_iter": [80]})


def case(task, n=150, seed=0, gap=False):
    """A problem, three members that each see a noisy part of the truth, and metadata of which some is unknown."""
    rng = np.random.default_rng(seed)
    classes = {"multiclass": 3, "multilabel": 4, "ordinal": 4, "binary": 2}.get(task, 2)
    width = TASKS[task].width(classes)
    truth, meta = rng.normal(size=(n, width)), rng.normal(size=(n, 2))
    truth[:, 0] += meta[:, 0]
    if task == "multiclass":
        y = truth.argmax(1)
        members = [_soft(truth + rng.normal(size=truth.shape)) for _ in range(3)]
    elif TASKS[task].probabilities:
        y = (truth > 0).astype(int)
        y = y if task == "multilabel" else y[:, 0]
        members = [1 / (1 + np.exp(-truth - rng.normal(size=truth.shape))) for _ in range(3)]
    else:
        y = truth if task == "regression" else np.digitize(truth[:, 0], [-1, 0, 1])
        members = [truth + rng.normal(size=truth.shape) for _ in range(3)]
    if gap:
        meta[rng.random(meta.shape) < 0.1] = np.nan
    problem = Problem(TASKS[task], METRICS[METRIC[task]], classes, y, np.arange(n) % 5, None)
    return problem, [m.astype(np.float32) for m in members], meta


def _soft(z):
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


def score(problem, p):
    return problem.metric(problem.task, problem.y, p, problem.task.default_cuts(problem.classes))


@pytest.mark.parametrize("task, method", CASES)
def test_better_than_the_mean_and_in_the_shapes_of_the_task(task, method):
    problem, members, meta = case(task, n=600, gap=True)
    oof, by_fold, _ = Stack(problem, inputs(problem.task, members, meta), method, 0).crossfit()
    assert oof.shape == members[0].shape
    assert oof.dtype == np.float32
    assert set(by_fold) == set(range(5))
    if problem.task.probabilities:
        assert ((oof >= 0) & (oof <= 1)).all()
    if task == "multiclass":
        np.testing.assert_allclose(oof.sum(1), 1, atol=1e-5)
    assert score(problem, oof) < score(problem, np.mean(members, 0))  # log loss and rmse


@pytest.mark.parametrize("task, method", CASES)
def test_labels_of_a_fold_tell_its_own_rows_nothing(task, method):
    problem, members, meta = case(task)
    x, mine = inputs(problem.task, members, meta), problem.folds == 2
    before = Stack(problem, x, method, 0).crossfit()[0]
    rng, y = np.random.default_rng(9), problem.y.copy()
    y[mine] = rng.permutation(y[mine])
    other = Problem(problem.task, problem.metric, problem.classes, y, problem.folds, None)
    after = Stack(other, x, method, 0).crossfit()[0]
    np.testing.assert_array_equal(before[mine], after[mine])
    assert (before[~mine] != after[~mine]).any()


def test_ridge_is_the_best_of_its_grid_over_the_folds():
    problem, members, meta = case("regression")
    x, rows = inputs(problem.task, members, meta), problem.folds != 0
    (fitted, _) = Stack(problem, x, "ridge", 0).fit(rows)
    y, folds, errors = problem.y[rows, 0], problem.folds[rows], {}
    for alpha in GRIDS["ridge"]["ridge__alpha"]:
        wrong = []
        for k in range(1, 5):
            scaler = StandardScaler().fit(x[rows][folds != k])
            model = Ridge(alpha).fit(scaler.transform(x[rows][folds != k]), y[folds != k])
            wrong.append(((model.predict(scaler.transform(x[rows][folds == k])) - y[folds == k]) ** 2).mean())
        errors[alpha] = np.mean(wrong)
    assert fitted.named_steps["ridge"].alpha == min(errors, key=errors.get)
    scaler = StandardScaler().fit(x[rows])
    wanted = Ridge(min(errors, key=errors.get)).fit(scaler.transform(x[rows]), y).predict(scaler.transform(x))
    np.testing.assert_allclose(fitted.predict(x), wanted, rtol=1e-9)


@pytest.mark.parametrize("method", ["logistic", "boosted"])
def test_classes_that_a_fold_lacks(method):
    problem, members, meta = case("multiclass", n=60)
    y, folds = problem.y.copy(), problem.folds
    y[(y == 2) & (folds != 1)] = 0
    rare = Problem(problem.task, problem.metric, 3, y, folds, None)
    oof = Stack(rare, inputs(problem.task, members, meta), method, 0).crossfit()[0]
    assert np.isfinite(oof).all()
    assert (oof[folds == 1, 2] == 0).all()
    problem, members, meta = case("multilabel", n=60)
    y = problem.y.copy()
    y[:, 3] = 0
    never = Problem(problem.task, problem.metric, 4, y, folds, None)
    assert (Stack(never, inputs(problem.task, members, meta), method, 0).crossfit()[0][:, 3] == 0).all()


def test_random_labels_stay_random():
    gains = []
    for seed in range(12):
        problem, members, meta = case("binary", n=100, seed=seed)
        y = np.random.default_rng(100 + seed).integers(0, 2, 100)
        noise = Problem(problem.task, METRICS["roc_auc"], 2, y, problem.folds, None)
        gains.append(score(noise, Stack(noise, inputs(problem.task, members, meta), "logistic", 0).crossfit()[0]) - 0.5)
    assert abs(np.mean(gains)) < 4 * np.std(gains, ddof=1) / 12**0.5


@pytest.mark.parametrize("method", ["ridge", "boosted"])
def test_rows_weigh_in_the_fit_and_in_the_choice(method):
    problem, members, meta = case("regression", n=300)
    rng, y = np.random.default_rng(1), problem.y.copy()
    doubted = rng.random(len(y)) < 0.5
    y[doubted] *= -1  # half of the rows say the opposite, and are hardly believed
    weight = np.where(doubted, 0.001, 1.0)
    heavy = replace(problem, y=y, weight=weight)
    plain = replace(problem, y=y)
    x = inputs(problem.task, members, meta)
    with_weights, without = (heavy.score(Stack(p, x, method, 0).crossfit()[0]) for p in (heavy, plain))
    assert with_weights < 0.7 * without


def test_a_fold_without_which_one_class_is_left_does_not_choose():
    problem, members, meta = case("binary", n=200)
    y = problem.y.copy()
    y[(problem.folds != 1) & (problem.folds != 2)] = 0
    rare = replace(problem, y=y)
    oof = Stack(rare, inputs(problem.task, members, meta), "logistic", 0).crossfit()[0]
    assert np.isfinite(oof).all()


def test_trees_are_fitted_on_some_of_many_rows(monkeypatch):
    from pipeline.scoring.stack import some

    np.testing.assert_array_equal(some(10), np.arange(10))
    monkeypatch.setattr("pipeline.scoring.stack.MOST", 40)
    rows = some(1000)
    assert len(np.unique(rows)) == 40
    assert (np.diff(rows) > 0).all()
    assert 0 <= rows[0] < 200 < 800 < rows[-1] < 1000
    np.testing.assert_array_equal(rows, some(1000))
