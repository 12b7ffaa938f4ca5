"""Contributions under weights, groups, soft and unknown targets: their mean is the metric, their slope its slope."""

from dataclasses import replace

import numpy as np
import pytest
from problems import CASES, COLUMNS, draw

from pipeline.forecast.contributions import contributions, guess_of, pooled
from pipeline.forecast.influence import MOST_OF_FILE, influence, one_by_one
from pipeline.scoring.metrics import METRICS, Metric

# Left out one by one: pseudo-values, not slopes.
JACKKNIFE = ("balanced_log_loss", "weighted_auc", "pearson", "spearman")
LABELS = [(name, task) for name, task in CASES if METRICS[name].label]


def posed(name, task, seed=0, n=40):
    problem, p, rng = draw(name, task, seed, n, values=2)
    return replace(problem, weight=rng.uniform(0.3, 2, n)), p


def slopes(problem, guess, step=1e-5):
    """n w times the slope of the metric in the weight of each row, by differences; rmse by its square."""
    power = 2 if problem.metric.name == "rmse" else 1
    found, weight = [], np.ones(len(guess)) if problem.weight is None else problem.weight
    for i in range(len(guess)):
        one = np.arange(len(guess)) == i
        up, down = (replace(problem, weight=weight + side * step * one).judge(guess) ** power for side in (1, -1))
        found.append(len(guess) * weight[i] * (up - down) / 2 / step)
    return problem.judge(guess) ** power + np.array(found)


@pytest.mark.parametrize("name, task", [case for case in CASES if case[0] not in JACKKNIFE])
def test_of_weighted_rows_it_is_the_slope(name, task):
    problem, p = posed(name, task)
    guess = guess_of(problem, p)
    found = contributions(problem, guess)
    assert pooled(problem, found) == pytest.approx(problem.judge(guess), abs=1e-9)
    np.testing.assert_allclose(found, slopes(problem, guess), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name, task", [case for case in CASES if case[0] != "r2"])
def test_weights_that_are_equal_are_none(name, task):
    """To first order: a pseudo-value and a slope differ by terms of 1 / n (r2 without weights is taken apart otherwise)."""
    problem, p = posed(name, task, n=400)
    guess = guess_of(problem, p)
    plain, even = (contributions(replace(problem, weight=w), guess) for w in (None, np.full(400, 3.0)))
    assert np.abs(plain - even).mean() < 0.05 * max(np.abs(plain - plain.mean()).mean(), 0.02)
    assert even.mean() == pytest.approx(plain.mean(), abs=0.02)


@pytest.mark.parametrize("name, task", LABELS)
def test_of_relabelled_rows_it_is_what_the_change_is_worth(name, task):
    problem, p = posed(name, task)
    base, guess = guess_of(problem, p), guess_of(problem, posed(name, task, 1)[1])
    before, after = contributions(problem, base), contributions(problem, guess, base)
    assert (before != after).any()
    same = (base == guess).reshape(len(p), -1).all(1)
    np.testing.assert_allclose(after[same], before[same], atol=1e-9)
    for i in np.flatnonzero(~same)[:10]:
        changed = base.copy()
        changed[i] = guess[i]
        gain = problem.judge(changed) - problem.judge(base)
        assert (after - before)[i] / len(p) == pytest.approx(gain, abs=0.02 + 0.2 * abs(gain))


@pytest.mark.parametrize("name, task", COLUMNS)
def test_unknown_entries_bring_nothing(name, task):
    problem, p = posed(name, task)
    y = problem.y.astype(float)
    y[np.random.default_rng(2).random(y.shape) < 0.3] = np.nan
    y[:2] = np.nan
    lacking, guess = replace(problem, y=y), guess_of(problem, p)
    found = contributions(lacking, guess)
    total, close = lacking.judge(guess) ** (2 if name == "rmse" else 1), 2e-2 if name in JACKKNIFE else 1e-6
    assert found.mean() == pytest.approx(total, abs=close)
    assert found[:2] == pytest.approx(total, abs=close)
    if name not in JACKKNIFE:
        np.testing.assert_allclose(found, slopes(lacking, guess), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", ["log_loss", "kl_divergence", "brier"])
def test_of_soft_classes(name):
    problem, p = posed(name, "multiclass")
    soft = replace(problem, y=np.random.default_rng(3).dirichlet(np.ones(4), len(p)))
    found = contributions(soft, p)
    assert found.mean() == pytest.approx(soft.judge(p))
    np.testing.assert_allclose(found, slopes(soft, p), atol=1e-4)
    even = replace(soft, weight=None)
    np.testing.assert_allclose(contributions(even, p), METRICS[name].soft(soft.y, p))


@pytest.mark.parametrize("name, task", [("mae", "ordinal"), ("f1_macro", "multilabel"), ("roc_auc", "binary")])
def test_a_group_brings_what_it_adds_to_the_mean(name, task):
    problem, p = posed(name, task, n=60)
    blocks = np.repeat(["a", "b", "c", "d"], [5, 20, 15, 20])
    grouped = replace(problem, blocks=blocks, metric=replace(problem.metric, grouped=True))
    guess = guess_of(grouped, p)
    found, total = contributions(grouped, guess), grouped.judge(guess)
    assert found.mean() == pytest.approx(total, abs=1e-6)
    for block in "abcd":
        mine, alone = blocks == block, problem.part(blocks == block)
        # One group of four more or less moves the mean by its distance over four.
        share = (found[mine] - total).sum() / 60
        assert share == pytest.approx((alone.judge(guess[mine]) - total) / 4, abs=1e-6)


def test_a_metric_file_is_called_a_few_hundred_times_at_most():
    calls = []

    def file(y, p, weight):
        calls.append(weight)
        return float(np.average(y == p, weights=weight))

    mine = Metric("metric.py", file, True, True, ("multiclass",), draws=True)
    problem, p = posed("accuracy", "multiclass", n=3000)
    guess = p.argmax(1)
    found = contributions(replace(problem, metric=mine), guess)
    assert len(calls) <= 2 * 4 * 4 + 1
    assert all((weight == weight.round()).all() for weight in calls)
    np.testing.assert_allclose(found, (guess == problem.y).astype(float), atol=1e-9)
    score = replace(problem, metric=replace(mine, label=False))
    assert one_by_one(score.part(np.arange(MOST_OF_FILE + 1)), guess[: MOST_OF_FILE + 1]) is None
    assert influence(score, p, p) is None


@pytest.mark.parametrize(
    "name, task", [("accuracy", "multilabel"), ("roc_auc", "multilabel"), ("spearman", "regression")]
)
def test_what_is_right_where_nothing_else_can_be_had(name, task):
    """A metric of the user's own on many rows, some of whose targets are unknown."""
    problem, p = posed(name, task, n=4100)
    y = problem.y.astype(float)
    y[0, 0], own = np.nan, Metric("mine", lambda y, p, w: 0.5, problem.metric.label, True, (task,))
    found = contributions(replace(problem, y=y, metric=own, weight=None), guess_of(problem, p))
    assert np.isfinite(found).all()
    if task == "multilabel":
        right = (np.isnan(y) | ((p > 0.5) == y)).all(1)
        assert (found == (0.5 if name == "accuracy" else right)).all()
    else:
        assert found[0] == pytest.approx(-np.abs(y[0, 1] - p[0, 1]))
