from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from pipeline.scoring.blend import Blend, mix
from pipeline.scoring.classification import EPS
from pipeline.scoring.convex import convex, convex_log_loss, convex_squared, true_probability
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS

PROBABILITIES = ["binary", "multiclass", "multilabel"]


def loss(true, w, share=None):
    return -np.average(np.log(np.maximum(true, EPS) @ w), weights=share)


def certified(true, w, share=None):
    """Return Frank and Wolfe's gap, worked out anew."""
    true = np.maximum(true, EPS)
    slope = np.average(true / (true @ w)[:, None], axis=0, weights=share)
    return slope.max() - slope @ w


def slsqp(value, slope, m):
    found = minimize(
        value,
        np.full(m, 1 / m),
        jac=slope,
        method="SLSQP",
        bounds=[(0, 1)] * m,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(m)},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return np.maximum(found.x, 0) / np.maximum(found.x, 0).sum()


def simplex(m, steps):
    """Return a grid over the simplex of 2 or 3 weights."""
    axes = np.meshgrid(*[np.arange(steps + 1)] * (m - 1), indexing="ij")
    points = np.column_stack([a.ravel() for a in axes])
    points = points[points.sum(1) <= steps]
    return np.column_stack([points, steps - points.sum(1)]) / steps


def true_probabilities(n, m, seed=0):
    """Return correlated members of differing quality."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, m)) * np.linspace(0.3, 2, m)
    return 1 / (1 + np.exp(-(0.5 + rng.normal(size=(n, 1)) + noise)))


def on_simplex(w):
    return w.min() >= 0 and w.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("n, m", [(30, 2), (30, 3), (500, 3), (500, 10), (2000, 25)])
def test_convex_log_loss_against_slsqp_and_a_grid(n, m, weighted):
    true = true_probabilities(n, m, seed=m)
    share = np.random.default_rng(1).integers(0, 4, n).astype(float) if weighted else None
    w, gap = convex_log_loss(true, share)
    assert on_simplex(w)
    assert 0 <= gap <= 1e-9
    assert certified(true, w, share) <= gap + 1e-13
    theirs = slsqp(
        lambda v: loss(true, v, share), lambda v: -np.average(true / (true @ v)[:, None], axis=0, weights=share), m
    )
    assert loss(true, w, share) == pytest.approx(loss(true, theirs, share), abs=1e-7)
    if m <= 3:
        grid = min(loss(true, v, share) for v in simplex(m, 2000 if m == 2 else 60))
        assert grid - 1e-3 <= loss(true, w, share) <= grid + 1e-9


TRUE = true_probabilities(40, 6)
DEGENERATE = {
    "one": TRUE[:, :1],
    "one row": TRUE[:1],
    "identical": TRUE[:, :1].repeat(6, 1),
    "twins": np.column_stack([TRUE, TRUE]),
    "more members than rows": TRUE[:5].T @ TRUE[:5, :].repeat(5, 1) / 9,
    "a member of zeros": TRUE * (np.arange(6) > 0),
    "zeros in every member": np.where(np.random.default_rng(0).random(TRUE.shape) < 0.5, 0, TRUE),
    "a row of zeros": TRUE * (np.arange(40) > 0)[:, None],
    "a perfect member": np.where(np.arange(6) == 4, 1, TRUE),
    "all perfect": np.ones((9, 3)),
    "complementary": np.eye(3)[np.arange(30) % 3],
    "float32": TRUE.astype(np.float32),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_convex_log_loss_of_degenerate_members(name):
    true = DEGENERATE[name]
    w, gap = convex_log_loss(true)
    assert on_simplex(w)
    assert 0 <= gap <= 1e-9
    assert certified(true.astype(float), w) <= gap + 1e-13
    if name == "a perfect member":
        assert w[4] == pytest.approx(1, abs=1e-6)
    if name == "a member of zeros":
        assert w[0] == pytest.approx(0, abs=1e-9)
    if name == "complementary":
        assert w == pytest.approx([1 / 3] * 3, abs=1e-6)


@given(st.integers(1, 6).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 10)] * m), min_size=1, max_size=12)))
def test_convex_log_loss_is_certified_for_any_table(rows):
    true = np.array(rows) / 10
    w, gap = convex_log_loss(true)
    assert on_simplex(w)
    assert certified(true, w) <= gap + 1e-12
    assert gap <= 1e-9


def test_weight_0_leaves_a_row_out():
    share = np.arange(40) % 3
    some = convex_log_loss(TRUE, share.astype(float))[0]
    assert some == pytest.approx(convex_log_loss(TRUE.repeat(share, 0))[0], abs=1e-6)


@pytest.mark.parametrize("n, m", [(30, 2), (30, 3), (500, 10), (10, 30)])
def test_convex_squared_against_slsqp_and_a_grid(n, m):
    rng = np.random.default_rng(m)
    errors = 0.3 + 0.7 * rng.normal(size=(n, 1)) + rng.normal(size=(n, m)) * np.linspace(0.3, 2, m)
    e = errors.T @ errors / n
    w, gap = convex_squared(e)
    assert on_simplex(w)
    assert 0 <= gap <= 1e-9
    slope = 2 * e @ w
    assert slope @ w - slope.min() <= gap + 1e-12
    best = slsqp(lambda v: v @ e @ v, lambda v: 2 * e @ v, m)
    assert w @ e @ w == pytest.approx(best @ e @ best, abs=1e-7)
    if m <= 3:
        grid = min(v @ e @ v for v in simplex(m, 2000 if m == 2 else 60))
        assert grid - 1e-2 <= w @ e @ w <= grid + 1e-9


ERRORS = np.random.default_rng(0).normal(size=(40, 6))
RESIDUALS = {
    "one": ERRORS[:, :1],
    "identical": ERRORS[:, :1].repeat(6, 1),
    "nearly identical": ERRORS[:, :1].repeat(300, 1) + 1e-9 * np.random.default_rng(1).normal(size=(40, 300)),
    "more members than rows": ERRORS[:5].repeat(3, 1) + 0.1 * np.arange(18),
    "a perfect member": ERRORS * (np.arange(6) != 4),
    "all perfect": np.zeros((9, 3)),
    "large": ERRORS * 1e6,
    "small": ERRORS * 1e-6,
    "a wild member": ERRORS * [1, 1, 1, 1, 1, 1e4],
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_convex_squared_of_degenerate_members(name):
    e = RESIDUALS[name].T @ RESIDUALS[name] / 40
    w, gap = convex_squared(e)
    assert on_simplex(w)
    assert gap <= 1e-9 * max(np.trace(e) / len(e), 1e-9)
    slope = 2 * e @ w
    assert gap == pytest.approx(slope @ w - slope.min(), rel=1e-3, abs=1e-15 * np.trace(e) / len(e))
    assert w @ e @ w <= e.diagonal().min() * (1 + 1e-9) + 1e-12
    if name == "a perfect member":
        assert w[4] == pytest.approx(1, abs=1e-6)


def table(task, n=240, m=3, seed=0, quality=None):
    """Return a problem and members of the given noise, in the task's shapes."""
    rng = np.random.default_rng(seed)
    noise = np.full(m, 1.0) if quality is None else np.asarray(quality)
    folds = rng.permutation(np.arange(n) % 3)
    if task in ("ordinal", "regression"):
        y = rng.integers(0, 4, n) if task == "ordinal" else rng.normal(size=(n, 2))
        members = [y.reshape(n, -1) + s * rng.normal(size=(n, 1 if task == "ordinal" else 2)) for s in noise]
        return Problem(TASKS[task], METRICS["rmse"], 4, y, folds, None), members
    width = {"binary": 1, "multiclass": 4, "multilabel": 3}[task]
    if task == "multiclass":
        y = rng.integers(0, 4, n)
        logits = [2 * np.eye(4)[y] + s * 2 * rng.normal(size=(n, 4)) for s in noise]
        members = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in logits]
    else:
        y = rng.integers(0, 2, (n, width))
        members = [1 / (1 + np.exp(1 - 2 * y - s * 2 * rng.normal(size=y.shape))) for s in noise]
        y = y[:, 0] if task == "binary" else y
    return Problem(TASKS[task], METRICS["log_loss"], max(width, 2), y, folds, None), members


@pytest.mark.parametrize("task", PROBABILITIES)
def test_true_probability_is_all_that_log_loss_needs(task):
    problem, members = table(task)
    for p in members:
        (true,) = true_probability(problem.task, problem.y, [p])
        assert -np.log(true).mean() == pytest.approx(problem.metric(problem.task, problem.y, p, np.zeros(3)))


@pytest.mark.parametrize("task", [*PROBABILITIES, "ordinal", "regression"])
def test_convex_weights_beat_the_metric_on_a_grid(task):
    problem, members = table(task, quality=[0.5, 1, 1.5])
    w, gap = convex(problem.task, problem.y, members)
    assert on_simplex(w)
    assert gap <= 1e-9

    def value(v):
        return problem.metric(problem.task, problem.y, mix(members, v), np.zeros(3))

    grid = min(value(v) for v in simplex(3, 30))
    assert grid - 5e-3 <= value(w) <= grid + 1e-9


def weighing(task, seed=0, n=60):
    """A problem with whole weights, its members, and the same problem with its rows repeated."""
    problem, members = weighable(task, seed, n)
    times = np.random.default_rng(seed + 1).integers(0, 3, n)
    rows = np.arange(n).repeat(times)
    return replace(problem, weight=times.astype(float)), members, problem.part(rows), [p[rows] for p in members]


def weighable(task, seed, n):
    rng = np.random.default_rng(seed)
    if task == "regression":
        y, width = rng.normal(size=(n, 2)), 2
        members = [y + rng.normal(size=y.shape) for _ in range(3)]
    else:
        width = {"binary": 1, "multiclass": 3, "multilabel": 3}[task]
        y = rng.integers(0, 3, n) if task == "multiclass" else rng.integers(0, 2, (n, width)).squeeze()
        members = [rng.dirichlet(np.ones(3), n) if width == 3 else rng.random((n, 1)) for _ in range(3)]
    name = "rmse" if task == "regression" else "log_loss"
    return Problem(TASKS[task], METRICS[name], max(width, 2), y, np.arange(n) % 3, None), members


ALL_TASKS = ["binary", "multiclass", "multilabel", "regression"]


@pytest.mark.parametrize("task", ALL_TASKS)
def test_a_whole_weight_is_a_repeated_row(task):
    for seed in range(3):
        problem, members, repeated, theirs = weighing(task, seed)
        w, gap = convex(problem.task, problem.y, members, problem.weight)
        want, _ = convex(repeated.task, repeated.y, theirs)
        assert w == pytest.approx(want, abs=1e-5)
        assert gap < 1e-8
        best = problem.score(mix(members, w))
        for other in np.random.default_rng(seed).dirichlet(np.ones(3), 50):
            assert best <= problem.score(mix(members, other)) + 1e-9
        # Greedy steps see the same scores as of repeated rows.
        everyone = Blend(problem, members, "probability", "greedy", bags=1)
        assert everyone.fit(np.ones(len(members[0]), bool))[0].sum() == pytest.approx(1)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_convex_weights_of_soft_targets_are_those_of_labels_drawn_from_them(task):
    """Each row stands there once for every outcome, with the outcome's share as its weight."""
    problem, members = weighable(task, 5, 40)
    rng = np.random.default_rng(6)
    if task == "multiclass":
        soft = rng.dirichlet(np.ones(3), 40)
        rows, y, weight = np.arange(40).repeat(3), np.tile(np.arange(3), 40), soft.ravel()
    else:
        soft = rng.random(problem.y.shape)
        if task == "multilabel":
            soft, members = soft[:, :1], [p[:, :1] for p in members]
        rows, y = np.arange(40).repeat(2), np.tile([1, 0], 40)
        weight = np.column_stack([soft.ravel(), 1 - soft.ravel()]).ravel()
        y = y[:, None] if task == "multilabel" else y
    w, gap = convex(problem.task, soft, members)
    assert w == pytest.approx(convex(problem.task, y, [p[rows] for p in members], weight)[0], abs=1e-5)
    assert gap < 1e-8


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_unknown_targets_do_not_move_the_weights(task):
    problem, members = weighable(task, 7, 50)
    hidden = np.random.default_rng(8).random(problem.y.shape) < 0.4
    y = np.where(hidden, np.nan, problem.y.astype(float))
    w, _ = convex(problem.task, y, members)
    other = [np.where(hidden, 0.9, p) for p in members]
    assert w == pytest.approx(convex(problem.task, y, other)[0], abs=1e-6)
    errors = [np.where(hidden, 0, p - problem.y) for p in members]
    if task == "regression":
        even = [np.sum(np.einsum("m,mnt->nt", v, np.stack(errors)) ** 2) for v in (w, *np.eye(3), np.full(3, 1 / 3))]
        assert even[0] == min(even)
