import numpy as np
import pytest

from pipeline.difficulty.ties import Reader, margin, minority, pairs, prior_adjusted, rules, shares
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.tasks import TASKS


def problem(y, classes=3, metric="accuracy", folds=None, group=None):
    folds = np.arange(len(y)) % 4 if folds is None else folds
    return Problem(TASKS["multiclass"], METRICS[metric], classes, np.asarray(y), folds, group)


def test_margin_of_every_task():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 30)
    expected = [sorted(row)[-1] - sorted(row)[-2] for row in p]
    np.testing.assert_allclose(margin(TASKS["multiclass"], p), expected)
    np.testing.assert_allclose(margin(TASKS["binary"], np.array([[0.5], [0.9]])), [0, 0.8])
    np.testing.assert_allclose(margin(TASKS["multilabel"], np.array([[0.5, 0.9], [0.0, 0.8]])), [0, 0.6])
    np.testing.assert_allclose(margin(TASKS["ordinal"], np.array([[2.5], [1.0], [1.9]])), [0, 1, 0.8], atol=1e-12)
    assert (margin(TASKS["regression"], p) == 1).all(), "values have no ties"


def test_shares():
    found = shares(np.array([True, True, False, False]), np.array([True, False, True, True]))
    assert found == {"rows": 0.5, "errors": pytest.approx(1 / 3), "error": 0.5}
    assert np.isnan(shares(np.zeros(3, bool), np.zeros(3, bool))["error"])


def test_minority_moves_near_tied_rows_to_the_rarer_class():
    p = np.array([[0.5, 0.4, 0.1], [0.4, 0.5, 0.1], [0.8, 0.1, 0.1], [0.45, 0.1, 0.45]])
    moved = minority(p, np.array([90, 10, 50]), 0.2)
    assert moved.argmax(1).tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(moved.sum(1), 1)
    np.testing.assert_allclose(np.sort(moved, 1), np.sort(p, 1))
    assert p[0, 0] == 0.5, "the prediction itself is left alone"


def test_prior_adjustment_is_log_p_minus_tau_log_prior():
    rng = np.random.default_rng(0)
    p, prior = rng.dirichlet(np.ones(4), 50), np.array([0.6, 0.2, 0.15, 0.05])
    for tau in (0.0, 0.5, 1.0):
        odds = p / prior**tau
        np.testing.assert_allclose(prior_adjusted(p, prior, tau), odds / odds.sum(1, keepdims=True))


def imbalanced(n, seed):
    """Two classes that overlap, one of them rare: calibrated probabilities favour the frequent one."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.15).astype(np.int64)
    z = rng.normal(1.5 * y, 1)
    odds = 0.15 * np.exp(1.5 * z - 1.125) / 0.85
    p = odds / (1 + odds)
    return y, np.column_stack([1 - p, p]) * 0.98 + 0.01


def test_rules_are_adopted_where_the_metric_weighs_classes():
    y, p = imbalanced(1500, 0)
    found = rules(problem(y, 2, "balanced_accuracy"), p, 0.3)
    assert found["adopted"] == "prior"
    assert found["prior"]["low"] > 0
    assert found["prior"]["gain"] == pytest.approx(found["prior"]["score"] - found["plain"])
    assert set(found["tau"].values()) <= {0.5, 0.75, 1.0}
    assert found["minority"]["gain"] > 0


def test_no_rule_is_adopted_under_accuracy():
    for seed in range(5):
        y, p = imbalanced(400, seed)
        assert rules(problem(y, 2), p, 0.3)["adopted"] is None


def test_tau_and_class_sizes_of_a_fold_come_from_the_others():
    y, p = imbalanced(800, 1)
    mine = problem(y, 2, "balanced_accuracy")
    own = mine.folds == 0
    before = rules(mine, p, 0.3)["tau"]
    after = rules(problem(np.where(own, 1 - y, y), 2, "balanced_accuracy"), p, 0.3)["tau"]
    assert before[0] == after[0]
    assert before != after, "to the other folds they matter"


def test_a_score_metric_judges_probabilities():
    y, p = imbalanced(600, 2)
    found = rules(problem(y, 2, "log_loss"), p, 0.3)
    assert found["adopted"] is None
    assert set(found["tau"].values()) == {0.0}, "calibrated probabilities are best left alone"


def near_tied(n, seed, separable, models=4):
    """Rows of three classes whose predictions waver between the first two; embeddings that know, or not."""
    rng = np.random.default_rng(seed)
    y, folds = rng.integers(3, size=n), np.arange(n) % models
    lead = rng.uniform(-0.1, 0.1, n)
    p = np.where((y < 2)[:, None], np.column_stack([0.45 + lead, 0.45 - lead, np.full(n, 0.1)]), [0.1, 0.1, 0.8])
    readers = []
    for k in range(models):
        known = np.column_stack([y == 1, y == 2]) if separable else np.column_stack([y == 2, y == 2])
        features = known @ rng.normal(0, 3, (2, 6)) + rng.normal(0, 0.5, (n, 6))
        readers.append(Reader(features.astype(np.float16), folds != k, folds == k))
    return problem(y, folds=folds), p, readers


@pytest.mark.parametrize("separable", [True, False])
def test_pairs_are_told_apart_by_another_feature_or_not(separable):
    mine, p, readers = near_tied(240, 0, separable)
    near = margin(TASKS["multiclass"], p) < 0.3
    (found,) = pairs(mine, p, near, readers)
    assert found["pair"] == [0, 1]
    assert found["rows"] == near.sum() == (mine.y < 2).sum()
    assert found["errors"] == (p.argmax(1) != mine.y)[near].sum()
    assert found["verdict"] == ("separable: model problem" if separable else "overlap")
    assert (found["auc"] > 0.95) if separable else (abs(found["auc"] - 0.5) < 0.15)
    assert found["se"] < 0.1


def test_a_model_is_judged_on_rows_it_never_saw():
    """Where labels are random, features that tell the training rows apart by heart tell nothing of the others."""
    mine, p, readers = near_tied(240, 1, separable=False)
    rng = np.random.default_rng(2)
    wide = [Reader(rng.normal(0, 1, (240, 300)), r.trained, r.answers) for r in readers]
    (found,) = pairs(mine, p, margin(TASKS["multiclass"], p) < 0.3, wide)
    assert abs(found["auc"] - 0.5) < 0.15


def test_few_near_ties_say_nothing():
    mine, p, readers = near_tied(240, 0, separable=True)
    near = np.zeros(240, bool)
    near[np.flatnonzero(mine.y == 0)[:20]] = True
    (found,) = pairs(mine, p, near, readers)
    assert found["verdict"] == "too few rows"
    assert pairs(mine, p, np.zeros(240, bool), readers) == []


def test_the_pairs_with_most_near_ties_come_first():
    rng = np.random.default_rng(0)
    y = rng.integers(6, size=300)
    p = rng.dirichlet(np.full(6, 2.0), 300)
    found = pairs(problem(y, 6), p, np.ones(300, bool), [Reader(p, np.ones(300, bool), np.ones(300, bool))], most=4)
    assert len(found) == 4
    counts = [entry["rows"] for entry in found]
    assert counts == sorted(counts, reverse=True)
