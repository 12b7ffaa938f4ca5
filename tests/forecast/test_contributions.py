"""A row's contribution against taking every row out (or relabelling it) one by one."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ROW_TASKS

from pipeline.forecast.contributions import contributions, decomposes, distinct, guess_of, pooled, switchable
from pipeline.scoring.metrics import METRICS, Metric
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS

PAIRS = [(metric, task) for metric in METRICS.values() for task in metric.tasks if task in ROW_TASKS]


def problem_of(task, metric, n, seed, classes=4):
    """A problem with predictions that are right about two times in three, and its predictions."""
    rng = np.random.default_rng(seed)
    task = TASKS[task]
    classes = 2 if task.name == "binary" else classes
    if task.name == "multilabel":
        y = (rng.random((n, classes)) < 0.4).astype(np.int64)
        p = np.clip(0.5 * y + 0.6 * rng.random((n, classes)), 0.01, 0.99)
    elif task.name == "regression":
        y = rng.normal(size=(n, 2))
        p = y + rng.normal(size=y.shape)
    else:
        y = rng.integers(0, classes, n)
        p = np.where(rng.random(n) < 0.66, y, rng.integers(0, classes, n))[:, None] + 0.3 * rng.normal(size=(n, 1))
        if task.name == "multiclass":
            p = rng.dirichlet(np.ones(classes), n) + np.eye(classes)[y] * (rng.random((n, 1)) < 0.6)
            p /= p.sum(1, keepdims=True)
        elif task.name == "binary":
            p = np.round(np.clip(p / 2 + 0.25, 0.01, 0.99), 1)  # many ties
    return Problem(task, metric, classes, y, np.arange(n) % 3, None), p


def brute(problem, base, guess):
    n, full = len(problem.y), np.ones(len(problem.y))
    total, found = problem.metric.function(problem.y, base, full), []
    for i in range(n):
        without, changed = full.copy(), base.copy()
        without[i], changed[i] = 0, guess[i]
        rest = problem.metric.function(problem.y, base, without)
        found.append(n * problem.metric.function(problem.y, changed, full) - (n - 1) * rest)
    return np.where(np.isfinite(found), found, total)


@pytest.mark.parametrize("metric, task", PAIRS, ids=lambda v: getattr(v, "name", v))
def test_is_the_pseudo_value(metric, task):
    for seed in range(3):
        problem, p = problem_of(task, metric, 40, seed)
        guess = guess_of(problem, p)
        found = contributions(problem, guess)
        if metric.name == "rmse":
            assert pooled(problem, found) == pytest.approx(metric.function(problem.y, guess, np.ones(40)))
        elif metric.name == "r2":
            assert found.mean() == pytest.approx(metric.function(problem.y, guess, np.ones(40)))
        else:
            np.testing.assert_allclose(found, brute(problem, guess, guess), atol=1e-9)
        if decomposes(problem):
            assert pooled(problem, found) == pytest.approx(metric.function(problem.y, guess, np.ones(40)))


@pytest.mark.parametrize("metric, task", [(m, t) for m, t in PAIRS if m.label], ids=lambda v: getattr(v, "name", v))
def test_is_what_relabelling_one_row_is_worth(metric, task):
    for seed in range(3):
        problem, p = problem_of(task, metric, 30, seed)
        _, q = problem_of(task, metric, 30, seed + 100)
        base, guess = guess_of(problem, p), guess_of(problem, q)
        assert (base != guess).any()
        np.testing.assert_allclose(contributions(problem, guess, base), brute(problem, base, guess), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=9),
    st.sampled_from(["f1_macro", "f2_macro", "balanced_accuracy", "quadratic_kappa", "accuracy", "f1_micro"]),
)
def test_classes_that_appear_and_vanish(rows, name):
    y, base, guess = np.array(rows).T
    problem = Problem(TASKS["ordinal"], METRICS[name], 4, y, y, None)
    with np.errstate(invalid="ignore", divide="ignore"):
        want = brute(problem, base, guess)
    np.testing.assert_allclose(contributions(problem, guess, base), want, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=12),
    st.sampled_from(["roc_auc", "average_precision"]),
)
def test_ranks_with_ties(rows, name):
    y, p = np.array([r[0] for r in rows], int), np.array([r[1] for r in rows]) / 4
    problem = Problem(TASKS["binary"], METRICS[name], 2, y, y, None)
    if not np.isfinite(METRICS[name].function(y, p, np.ones(len(y)))):
        assert np.isnan(contributions(problem, p)).all()
        return
    np.testing.assert_allclose(contributions(problem, p), brute(problem, p, p), atol=1e-9)


def own(y, p, weight):
    """Half accuracy, half one minus the largest class share of errors."""
    return float(np.average(np.atleast_2d((y == p).T).T.all(1), weights=weight) ** 2)


def test_a_metric_of_the_users_own():
    label = Metric("mine", own, True, True, ("multiclass",))
    problem, p = problem_of("multiclass", label, 40, 0)
    base, guess = guess_of(problem, p), guess_of(problem, p[::-1])
    np.testing.assert_allclose(contributions(problem, guess, base), brute(problem, base, guess), atol=1e-9)
    score = Metric(
        "mine", lambda y, p, w: float(np.average(p[np.arange(len(y)), y], weights=w) ** 2), False, True, ("multiclass",)
    )
    problem, p = problem_of("multiclass", score, 40, 0)
    np.testing.assert_allclose(contributions(problem, p), brute(problem, p, p), atol=1e-9)
    assert not switchable(problem)
    assert not decomposes(problem)


def test_a_metric_of_the_users_own_on_many_rows_falls_back_to_right_rows():
    for greater in (True, False):
        score = Metric("mine", lambda y, p, w: float(np.average(p[:, 0], weights=w)), False, greater, ("multiclass",))
        problem, p = problem_of("multiclass", score, 5000, 0)
        right = (p.argmax(1) == problem.y) * (1.0 if greater else -1.0)
        np.testing.assert_array_equal(contributions(problem, p), right)


@pytest.mark.parametrize("name", ["f1_macro", "balanced_accuracy", "quadratic_kappa", "roc_auc", "average_precision"])
def test_a_hundred_thousand_rows_cost_a_second(name):
    task = "ordinal" if name == "quadratic_kappa" else "multiclass"
    problem, p = problem_of(task, METRICS[name], 100_000, 0, classes=12)
    started = time.process_time()
    contributions(problem, guess_of(problem, p))
    assert time.process_time() - started < 2.5


@given(
    st.integers(1, 40), st.integers(1, 3), st.integers(-3, 3), st.integers(0, 9), st.sampled_from(["i8", "u1", "i4"])
)
def test_distinct_rows_are_those_of_numpy(n, width, low, span, dtype):
    low = max(low, 0) if dtype == "u1" else low
    rows = np.random.default_rng(n).integers(low, low + span, (n, width), endpoint=True).astype(dtype)
    kinds, index = distinct(rows)
    theirs, at = np.unique(rows, axis=0, return_inverse=True)
    np.testing.assert_array_equal(kinds, theirs)
    np.testing.assert_array_equal(index, at.ravel())
    assert kinds.dtype == rows.dtype
