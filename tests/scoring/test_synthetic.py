"""Rows that never were: against imbalanced-learn and by property."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.over_sampling import SMOTE
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.scoring.stack import Stack
from pipeline.scoring.synthetic import SYNTHETIC, enlarged
from pipeline.tasks import TASKS


def rows(counts, seed=0, width=4):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    return rng.normal(size=(len(y), width)).astype(np.float32) + 2 * y[:, None], y


def apart(p, ends):
    """How far points are from the nearest segment between two of `ends` (brute force)."""
    best = np.full(len(p), np.inf)
    for a in ends:
        for b in ends:
            u = np.clip(((p - a) @ (b - a)) / max((b - a) @ (b - a), 1e-12), 0, 1)
            best = np.minimum(best, np.linalg.norm(p - a - u[:, None] * (b - a), axis=1))
    return best


@pytest.mark.parametrize("counts", [(30, 8, 12), (20, 3), (9, 1)])
@pytest.mark.parametrize("kind", SYNTHETIC)
def test_every_class_is_as_large_as_the_largest(kind, counts):
    x, y = rows(counts)
    xs, ys, ws = enlarged(kind, x, y, None, 0)
    assert np.bincount(ys).tolist() == [max(counts)] * len(counts)
    assert np.array_equal(xs[: len(x)], x)
    assert np.array_equal(ys[: len(y)], y)
    assert xs.dtype == x.dtype
    assert ws is None
    again = enlarged(kind, x, y, None, 0)
    assert np.array_equal(xs, again[0])
    if min(counts) > 1 or kind == "gauss":  # one row alone has nothing to be joined with
        assert not np.array_equal(xs, enlarged(kind, x, y, None, 1)[0])


@pytest.mark.parametrize("kind", ["interpolate", "smote"])
def test_made_rows_lie_between_rows_of_their_class(kind):
    x, y = rows((25, 9, 5), seed=3)
    xs, ys, _ = enlarged(kind, x, y, None, 0)
    for c in (1, 2):
        assert apart(xs[len(x) :][ys[len(x) :] == c], x[y == c]).max() < 1e-4


def test_smote_joins_neighbours():
    x, y = rows((60, 20), seed=4)
    z = (x - x.mean(0)) / x.std(0)
    xs = enlarged("smote", x, y, None, 7)[0]
    made, own = (xs[len(x) :] - x.mean(0)) / x.std(0), z[y == 1]
    near = NearestNeighbors(n_neighbors=6).fit(own).kneighbors(own, return_distance=False)[:, 1:]
    found = np.min([apart(made, own[[i, j]]) for i in range(len(own)) for j in near[i]], 0)
    assert found.max() < 1e-4
    theirs, _ = SMOTE(sampling_strategy={1: 60}, random_state=7).fit_resample(z.astype(np.float64), y)
    np.testing.assert_allclose(made, theirs[len(x) :], atol=1e-4)


def test_noise_is_a_tenth_of_a_standard_deviation():
    x, y = rows((4000, 2), seed=5)
    x[:, 1] *= 100
    xs = enlarged("gauss", x, y, None, 0)[0]
    made, own = xs[len(x) :], x[y == 1]
    distance = (made[:, None] - own[None]) / x.std(0)
    nearest = distance[np.arange(len(made)), np.abs(distance).sum(2).argmin(1)]
    np.testing.assert_allclose(nearest.std(0), 0.1, rtol=0.1)
    np.testing.assert_allclose(nearest.mean(0), 0, atol=0.01)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.sampled_from(list(SYNTHETIC)), st.integers(0, 9))
def test_any_counts_unknowns_and_weights(counts, kind, seed):
    x, y = rows(counts, seed)
    x[0, 0] = np.nan
    x[:, 1] = 5.0
    weight = np.random.default_rng(seed).random(len(y)) + 0.1
    xs, ys, ws = enlarged(kind, x, y, weight, seed)
    assert np.isfinite(xs[len(x) :]).all()
    assert np.array_equal(ws[: len(y)], weight)
    for c in np.unique(ys):
        made = ws[len(y) :][ys[len(y) :] == c]
        np.testing.assert_allclose(made, weight[y == c].mean())
    if kind != "gauss":
        np.testing.assert_allclose(xs[:, 1], 5.0)


@pytest.mark.parametrize("task, method", [("multiclass", "logistic"), ("ordinal", "ridge"), ("multilabel", "logistic")])
def test_rows_are_made_of_those_that_are_fitted_on(task, method):
    """Rows of other folds may hold anything: the fit is the same, also where it chooses its own setting."""
    x, y = rows((30, 10, 8), seed=6)
    y = np.eye(3, dtype=int)[y] if task == "multilabel" else y
    folds = np.arange(len(y)) % 4
    metric = METRICS["f1_macro" if task == "multilabel" else "accuracy" if task == "multiclass" else "mae"]
    fits = []
    for noise in (0.0, 50.0):
        seen = np.where((folds == 2)[:, None], x + noise, x)
        stack = Stack(Problem(TASKS[task], metric, 3, y, folds, None), seen, method, 0, "smote")
        fits.append(stack.predict(stack.fit(folds != 2), x))
    assert np.array_equal(*fits)
    plain = Stack(Problem(TASKS[task], metric, 3, y, folds, None), x, method, 0)
    assert not np.allclose(fits[0], plain.predict(plain.fit(folds != 2), x))


def test_a_stack_is_fitted_on_the_enlarged_rows():
    x, y = rows((40, 10), seed=8)
    stack = Stack(
        Problem(TASKS["binary"], METRICS["accuracy"], 2, y, np.zeros(50, int), None), x, "logistic", 3, "smote"
    )
    xs, ys, _ = enlarged("smote", x, y, None, 3)
    mean, sd = xs.mean(0), xs.std(0)
    wanted = LogisticRegression(max_iter=1000).fit((xs - mean) / sd, ys).predict_proba((x - mean) / sd)[:, 1]
    np.testing.assert_allclose(stack.predict(stack.fit(np.ones(50, bool)), x)[:, 0], wanted, atol=1e-4)
