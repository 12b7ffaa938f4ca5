import numpy as np
import pytest

from pipeline.scoring.bootstrap import standard_error
from pipeline.scoring.cuts import crossfit
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.scoring.report import in_words, score_oof, score_run
from pipeline.tasks import TASKS


def case(task, name, n=300):
    rng = np.random.default_rng(0)
    folds = rng.integers(0, 3, n)
    if task == "regression":
        y = rng.normal(size=(n, 2))
        return Problem(TASKS[task], METRICS[name], 2, y, folds, None), y + rng.normal(size=y.shape)
    if task == "multiclass":
        y = np.r_[rng.integers(0, 2, n - 9), np.full(9, 2)]
        folds[y == 2] = 0  # the other folds have no row of class 2
        p = np.eye(3)[y] + rng.random((n, 3)) * [1.5, 1.5, 0.5]
        return Problem(TASKS[task], METRICS[name], 3, y, folds, None), p / p.sum(1, keepdims=True)
    if task == "ordinal":
        y = rng.integers(0, 4, n)
        return Problem(TASKS[task], METRICS[name], 4, y, folds, None), 0.5 * y[:, None] + rng.normal(size=(n, 1)) / 3
    y = rng.integers(0, 2, n)
    p = 1 / (1 + np.exp(2 - 2 * y[:, None] - 1.5 * rng.normal(size=(n, 1))))
    return Problem(TASKS[task], METRICS[name], 2, y, folds, None), p


@pytest.mark.parametrize(
    "task, name",
    [("regression", "rmse"), ("binary", "roc_auc"), ("multiclass", "f1_macro"), ("multiclass", "balanced_accuracy")],
)
def test_scores_of_the_pool_and_of_each_fold(task, name):
    problem, oof = case(task, name)
    report, decision = score_run(problem, oof, "optimal", lambda _: oof)
    assert decision is None
    assert set(report) == {"metric", "score", "se", "n", "per_fold", "fold_sd"}
    cuts = problem.task.default_cuts(problem.classes)

    def alone(rows):
        return problem.metric(problem.task, problem.y[rows], oof[rows], cuts)

    assert report["metric"] == name
    assert report["n"] == 300
    assert report["score"] == pytest.approx(alone(slice(None)))
    assert report["per_fold"] == pytest.approx([alone(problem.folds == k) for k in range(3)])
    assert report["fold_sd"] == pytest.approx(np.std(report["per_fold"], ddof=1))
    assert 0 < report["se"] < 0.2


@pytest.mark.parametrize("task, name", [("binary", "f1"), ("ordinal", "quadratic_kappa")])
def test_a_tuned_score_is_the_cross_fitted_one(task, name):
    problem, oof = case(task, name)
    report, facts = score_run(problem, oof, "optimal", lambda _: oof)
    decision, one = crossfit(problem, "optimal", lambda _: oof), np.ones(300)
    score = problem.metric.function
    assert report["score"] == score(problem.y, decision.labels, one)
    fixed = problem.task.decide(oof, problem.task.default_cuts(problem.classes))
    assert report["fixed"] == score(problem.y, fixed, one)
    assert report["in_sample"] == score(problem.y, problem.task.decide(oof, decision.cuts), one)
    assert report["fixed"] < report["score"] < report["in_sample"]
    first = problem.folds == 0
    assert report["per_fold"][0] == pytest.approx(score(problem.y[first], decision.labels[first], one[first]))
    assert report["se"] == pytest.approx(standard_error(lambda w: score(problem.y, decision.labels, w), 300, None))
    assert facts["level"] == "crossfit"
    assert facts["method"] == "optimal"
    assert facts["methods"] == dict.fromkeys(range(3), "optimal")
    assert (facts["cuts"] == decision.cuts).all()
    assert set(facts["by_fold"]) == {"0", "1", "2"}
    assert all((facts["by_fold"][str(k)] == decision.by_fold[k]).all() for k in range(3))


def test_groups_widen_the_standard_error():
    problem, oof = case("regression", "rmse", 100)
    wide = [v.repeat(9, 0) for v in (problem.y, problem.folds, oof)]
    errors = [
        score_oof(Problem(problem.task, problem.metric, 2, wide[0], wide[1], group), wide[2], None)["se"]
        for group in (None, np.arange(100).repeat(9))
    ]
    assert errors[1] > 2 * errors[0]


def test_one_fold_has_no_spread():
    problem, oof = case("regression", "rmse", 30)
    alone = Problem(problem.task, problem.metric, 2, problem.y, np.zeros(30, int), None)
    assert np.isnan(score_oof(alone, oof, None)["fold_sd"])


def test_in_words():
    report = {"metric": "f1", "score": 0.81239, "se": 0.01, "n": 300, "fold_sd": 0.02, "per_fold": []}
    assert in_words(report) == "f1 0.8124 +- 0.0100 (se, n=300), folds sd 0.0200"
    tuned = in_words(report | {"fixed": 0.7, "in_sample": 0.9})
    assert tuned.endswith("folds sd 0.0200; fixed cuts 0.7000, tuned in-sample 0.9000 (optimistic)")
    matched = in_words(report | {"size_matched": {"score": 0.83, "se": 0.011, "models": 5}})
    assert matched.endswith("; expected of the mean of 5 on test 0.8300 +- 0.0110")
