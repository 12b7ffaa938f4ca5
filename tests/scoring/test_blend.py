from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import rankdata

from pipeline.scoring.blend import (
    Blend,
    convex,
    convex_log_loss,
    convex_squared,
    from_space,
    greedy,
    mix,
    to_space,
    true_probability,
)
from pipeline.scoring.cuts import Problem
from pipeline.scoring.metrics import EPS, METRICS
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
        true = true_probability(problem.task, problem.y, p)
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


def caruana(members, score, steps):
    """Try every member at every step; keep the best bag seen."""
    bag = [max(range(len(members)), key=lambda m: score(members[m]))]
    bags = [list(bag)]
    while len(bag) < steps:
        values = [score(np.mean([members[i] for i in [*bag, m]], axis=0)) for m in range(len(members))]
        bag.append(int(np.argmax(values)))
        bags.append(list(bag))
    best = max(bags, key=lambda b: score(np.mean([members[i] for i in b], axis=0)))
    return np.bincount(best, minlength=len(members)) / len(best)


@pytest.mark.parametrize(
    "task, name", [("binary", "roc_auc"), ("binary", "f1"), ("multiclass", "log_loss"), ("ordinal", "mae")]
)
def test_greedy_against_the_naive_loop(task, name):
    problem, members = table(task, 80, 4, quality=[0.8, 0.9, 1, 1.2])
    metric, cuts = METRICS[name], problem.task.default_cuts(4)

    def score(p, w):
        return float(metric.gain(metric(problem.task, problem.y, p, cuts, w), 0.0))

    bags = [np.ones(80), *np.random.default_rng(1).multinomial(80, np.full(80, 1 / 80), 2).astype(float)]
    each = [caruana(members, lambda p, w=w: score(p, w), 12) for w in bags]
    assert all(len(set(e.tolist())) > 1 for e in each)
    assert greedy(members, score, bags, 12) == pytest.approx(np.mean(each, 0))
    best = int(np.argmax([score(p, bags[0]) for p in members]))
    assert greedy(members, score, bags[:1], 1).tolist() == np.eye(4)[best].tolist()


def test_greedy_leaves_its_members_alone_and_drops_bad_ones():
    members = [np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])]
    w = greedy(members, lambda p, _: -float(np.abs(p - [[1], [0]]).sum()), [np.ones(2)], 10)
    assert w.tolist() == [1, 0]
    assert members[0].tolist() == [[1], [0]]


@pytest.mark.parametrize("task", PROBABILITIES)
@pytest.mark.parametrize("space", ["probability", "logit"])
def test_spaces_round_trip(task, space):
    p = table(task)[1][0]
    assert from_space(TASKS[task], to_space(TASKS[task], p, space), space) == pytest.approx(p)
    assert to_space(TASKS[task], p.astype(np.float32), space).dtype == np.float64
    edge = np.eye(p.shape[1])[[0]] if p.shape[1] > 1 else np.array([[1.0], [0.0]])
    there = to_space(TASKS[task], edge, space)
    assert np.isfinite(there).all()
    assert from_space(TASKS[task], there, space) == pytest.approx(edge, abs=1e-12)


def test_logit_blends_are_geometric_means():
    p = table("multiclass")[1][:2]
    blend = from_space(
        TASKS["multiclass"], mix([to_space(TASKS["multiclass"], q, "logit") for q in p], [0.3, 0.7]), "logit"
    )
    geometric = p[0] ** 0.3 * p[1] ** 0.7
    assert blend == pytest.approx(geometric / geometric.sum(1, keepdims=True))
    q = to_space(TASKS["binary"], np.array([[0.2], [0.9]]), "logit")
    assert q == pytest.approx(np.log([[0.2 / 0.8], [0.9 / 0.1]]))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2)), min_size=1, max_size=30))
def test_ranks_are_taken_inside_folds(rows):
    values = np.array(rows)
    p, folds, task = values[:, :2] / 5, values[:, 2], TASKS["multilabel"]
    ranks = to_space(task, p, "rank", folds)
    for k in set(folds.tolist()):
        assert ranks[folds == k] == pytest.approx((rankdata(p[folds == k], axis=0) - 0.5) / (folds == k).sum())
    shifted = p + 7 * (folds == 1)[:, None]
    assert (to_space(task, shifted, "rank", folds) == ranks).all()
    assert to_space(task, p, "rank") == pytest.approx((rankdata(p, axis=0) - 0.5) / len(p))
    assert from_space(task, ranks, "rank") is ranks


def test_mix_wants_a_weight_for_each_member():
    assert mix([np.ones((2, 1)), np.zeros((2, 1))], np.array([0.25, 0.75])).tolist() == [[0.25], [0.25]]
    with pytest.raises(ValueError, match="zip"):
        mix([np.ones((2, 1))], np.array([0.5, 0.5]))


@pytest.mark.parametrize("method", ["convex", "greedy", "auto"])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression"])
def test_no_fold_sees_its_own_labels(task, method):
    problem, members = table(task, 120, quality=[0.5, 1, 1.3])
    own = problem.folds == 1
    changed = problem.y.copy()
    changed[own] = np.random.default_rng(1).permutation(problem.y[own])
    one, other = (
        Blend(p, members, "probability", method, steps=6, bags=2) for p in (problem, replace(problem, y=changed))
    )
    first, second = one.fit(~own), other.fit(~own)
    assert (first[0] == second[0]).all()
    assert first[1:] == second[1:]
    if method == "convex":
        assert (one.fit(problem.folds != 0)[0] != other.fit(problem.folds != 0)[0]).any()


def test_fit_by_method():
    problem, members = table("multiclass", quality=[0.5, 1, 1.3])
    everything = np.ones(240, bool)
    asked = Blend(problem, members, "probability", "uniform", hand=np.array([1.0, 1, 2]), steps=5, bags=2)
    w, method, gap = asked.fit(everything)
    assert (w.tolist(), method, gap) == ([1 / 3] * 3, "uniform", None)
    w, method, gap = asked.fit(everything, "hand")
    assert (w.tolist(), method, gap) == ([0.25, 0.25, 0.5], "hand", None)
    w, method, gap = asked.fit(everything, "convex")
    assert w == pytest.approx(convex(problem.task, problem.y, members)[0])
    assert method == "convex"
    assert gap <= 1e-9
    w, method, gap = asked.fit(everything, "greedy")
    assert w.sum() == pytest.approx(1)
    assert (method, gap) == ("greedy", None)
    assert asked.predict(np.array([0, 1, 0])) == pytest.approx(members[1])


def test_greedy_drives_down_a_loss_and_up_a_score():
    for name in ("log_loss", "roc_auc"):
        problem, members = table("binary", quality=[3, 0.3, 3])
        asked = Blend(replace(problem, metric=METRICS[name]), members, "probability", "greedy", steps=5, bags=2)
        assert asked.fit(np.ones(240, bool))[0].argmax() == 1


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_auto_keeps_uniform_for_exchangeable_members(task):
    for seed in range(5):
        problem, members = table(task, seed=seed)
        asked = Blend(problem, members, "probability", "auto", steps=4, bags=2)
        assert asked.choose(np.ones(240, bool)) == "uniform"


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_auto_adopts_where_one_member_is_clearly_better(task):
    problem, members = table(task, quality=[0.3, 2, 2])
    asked = Blend(problem, members, "probability", "auto", steps=4, bags=2)
    w, method, gap = asked.fit(np.ones(240, bool))
    assert method in ("convex", "greedy")
    assert w[0] > 0.6
    assert (gap is not None) == (method == "convex")


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_auto_is_not_fooled_by_weights_that_fit_noise(task):
    problem, members = table(task, 45, 20)
    asked = Blend(problem, members, "probability", "auto", steps=4, bags=2)
    assert asked.choose(np.ones(45, bool)) == "uniform"


def test_auto_considers_convex_for_probabilities_only(monkeypatch):
    def refused(*_):
        raise AssertionError("convex weights mean nothing here")

    monkeypatch.setattr("pipeline.scoring.blend.convex", refused)
    problem, members = table("binary", quality=[0.3, 2, 2])
    spaced = [to_space(problem.task, p, "logit") for p in members]
    assert Blend(problem, spaced, "logit", "auto", steps=4, bags=2).choose(np.ones(240, bool)) == "greedy"


def test_auto_without_anything_to_compare_is_uniform():
    problem, members = table("binary", quality=[0.3, 2, 2])
    asked = Blend(problem, members, "probability", "auto")
    assert asked.choose(problem.folds == 0) == "uniform"
    assert replace(asked, members=members[:1]).choose(np.ones(240, bool)) == "uniform"


def test_auto_resamples_groups():
    problem, members = table("binary", 30, quality=[0.9, 1.1, 1.1], seed=2)
    times = 40
    wide = replace(problem, y=problem.y.repeat(times), folds=problem.folds.repeat(times))
    copies, unit = [p.repeat(times, 0) for p in members], np.arange(30).repeat(times)
    methods = [
        Blend(replace(wide, group=group), copies, "probability", "auto", steps=4, bags=2).choose(np.ones(1200, bool))
        for group in (None, unit)
    ]
    assert methods[0] != "uniform"
    assert methods[1] == "uniform"
