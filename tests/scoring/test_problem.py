"""Weights, groups, soft and unknown targets under every metric that takes them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import CASES, COLUMNS, draw

from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS


def posed(name, task, seed=0, n=36):
    return draw(name, task, seed, n, values=3)[:2]


@pytest.mark.parametrize("name, task", CASES)
def test_a_whole_weight_is_a_repeated_row_and_0_a_row_left_out(name, task):
    problem, p = posed(name, task)
    times = np.random.default_rng(1).integers(0, 4, len(p))
    rows = np.arange(len(p)).repeat(times)
    weighted = replace(problem, weight=times.astype(float))
    assert weighted.score(p) == pytest.approx(problem.part(rows).score(p[rows]), abs=1e-12)
    draws = np.random.default_rng(2).integers(0, 3, len(p)).astype(float)
    twice = np.arange(len(p)).repeat((times * draws).astype(int))
    assert weighted.score(p, None, draws) == pytest.approx(problem.part(twice).score(p[twice]), abs=1e-12)


@pytest.mark.parametrize("name, task", CASES)
def test_the_order_of_rows_and_the_scale_of_weights_do_not_matter(name, task):
    problem, p = posed(name, task)
    weighted = replace(problem, weight=np.random.default_rng(1).uniform(0.2, 2, len(p)))
    order = np.random.default_rng(2).permutation(len(p))
    score = weighted.score(p)
    assert score != problem.score(p)
    assert weighted.part(order).score(p[order]) == pytest.approx(score, abs=1e-12)
    assert replace(weighted, weight=7 * weighted.weight).score(p) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("name, task", CASES)
def test_rows_that_all_weigh_nothing_have_no_score(name, task):
    problem, p = posed(name, task)
    assert np.isnan(replace(problem, weight=np.zeros(len(p))).score(p))
    assert np.isnan(problem.score(p, None, np.zeros(len(p))))


def masked(problem, seed=3):
    y = problem.y.astype(float)
    y[np.random.default_rng(seed).random(y.shape) < 0.3] = np.nan
    return replace(problem, y=y)


@pytest.mark.parametrize("name, task", COLUMNS)
def test_each_column_is_scored_over_its_known_rows(name, task):
    problem, p = posed(name, task)
    problem = replace(problem, weight=np.random.default_rng(1).uniform(0.2, 2, len(p)))
    full = replace(problem, y=problem.y.astype(float))
    assert full.score(p) == pytest.approx(problem.score(p), abs=1e-12)
    lacking = masked(problem)
    score = lacking.score(p)
    # What stands where nothing is known does not matter.
    other = np.where(np.isnan(lacking.y), 1 - p, p)
    assert lacking.score(other) == pytest.approx(score, abs=1e-12)
    if problem.metric.unknown == "columns":
        known = ~np.isnan(lacking.y)
        parts = []
        for c in range(3):
            y = problem.y[known[:, c]][:, [c]]
            parts.append(replace(problem.part(known[:, c]), y=y).score(p[known[:, c]][:, [c]], [0.5]))
        assert score == pytest.approx(np.mean(parts), abs=1e-12)
    else:
        rows = ~np.isnan(lacking.y).any(1)
        alone = problem.part(rows).score(p[rows])
        whole = replace(lacking, weight=lacking.weight * rows).score(p)
        assert whole == pytest.approx(alone, abs=1e-12)
    nothing = replace(problem, y=np.full(problem.y.shape, np.nan))
    assert np.isnan(nothing.score(p))


@pytest.mark.parametrize("name", ["accuracy", "f1_micro", "f1_samples"])
def test_unknown_labels_by_hand(name):
    y = np.array([[1, np.nan, 0], [np.nan, 1, 1], [np.nan, np.nan, np.nan]])
    p = np.array([[0.9, 0.9, 0.1], [0.9, 0.9, 0.1], [0.9, 0.9, 0.9]])
    problem = Problem(TASKS["multilabel"], METRICS[name], 3, y, np.arange(3), None)
    # The first row is right as far as it is known, the second has one of two labels, the third says nothing.
    assert problem.score(p) == pytest.approx({"accuracy": 1 / 2, "f1_micro": 0.8, "f1_samples": (1 + 2 / 3) / 2}[name])


@pytest.mark.parametrize(
    "name, task", [("roc_auc", "multilabel"), ("log_loss", "multilabel"), ("mcrmse", "regression")]
)
def test_columns_weigh_as_the_contract_says(name, task):
    problem, p = posed(name, task)
    wide = replace(problem, metric=replace(problem.metric, shares=(13.0, 1.0, 1.0)))
    alone = [replace(problem, y=problem.y[:, [c]]).score(p[:, [c]], [0.5]) for c in range(3)]
    assert wide.score(p) == pytest.approx(np.average(alone, weights=[13, 1, 1]))


@given(st.integers(0, 200))
def test_the_mean_over_groups(seed):
    problem, p = posed("rmse", "regression", seed)
    rng = np.random.default_rng(seed)
    names = rng.choice(["x", "y", "z"], len(p))
    grouped = replace(problem, metric=replace(problem.metric, grouped=True), blocks=names)
    alone = {b: problem.part(names == b).score(p[names == b]) for b in np.unique(names)}
    assert grouped.score(p) == pytest.approx(np.mean(list(alone.values())))
    # A group that is drawn twice counts twice, one that is not drawn is not there.
    draws = np.select([names == "x", names == "y"], [2.0, 0.0], 1.0)
    twice = np.average([alone[b] for b in alone if b != "y"], weights=[2 if b == "x" else 1 for b in alone if b != "y"])
    assert grouped.score(p, None, draws) == pytest.approx(twice)
    some = rng.permutation(len(p))[:20]
    part = {b: problem.part(some[names[some] == b]).score(p[some[names[some] == b]]) for b in np.unique(names[some])}
    assert grouped.part(some).score(p[some]) == pytest.approx(np.mean(list(part.values())))


def test_a_group_without_a_score_is_left_out():
    problem, p = posed("roc_auc", "binary")
    names = np.where(np.arange(len(p)) < 3, "none", "rest")
    y = np.where(names == "none", 0, problem.y)
    grouped = replace(problem, y=y, metric=replace(problem.metric, grouped=True), blocks=names)
    assert grouped.score(p) == replace(problem, y=y).part(names == "rest").score(p[names == "rest"])
    assert np.isnan(replace(grouped, y=0 * y).score(p))


def test_what_is_plain_and_what_is_hard():
    problem, p = posed("log_loss", "multiclass")
    assert problem.plain
    assert problem.hard is problem.y
    soft = replace(problem, y=p)
    assert soft.soft
    assert not soft.plain
    assert (soft.hard == p.argmax(1)).all()
    labels, _ = posed("log_loss", "multilabel")
    part = masked(labels)
    assert not part.plain
    assert not part.soft
    assert np.isnan(part.hard).sum() == np.isnan(part.y).sum()
    assert replace(labels, y=labels.y * 0.75).soft
    assert (replace(labels, y=labels.y * 0.75).hard == labels.y).all()
    assert not replace(problem, weight=np.arange(len(p)) + 1.0).plain
    assert posed("rmse", "regression")[0].plain
